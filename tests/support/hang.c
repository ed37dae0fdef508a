/* Preloaded into a server (LD_PRELOAD): a disk that hangs. As long as the file exists that the
 * variable HANG_WHILE names, fsync and fdatasync wait. Each that begins to wait adds a byte to the
 * file, so that a test can wait for that. Built and used by src/disk.rs. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static void wait_while_there(void)
{
    const char *path = getenv("HANG_WHILE");
    int file = path ? open(path, O_WRONLY | O_APPEND | O_CLOEXEC) : -1;

    if (file < 0)
        return;
    if (write(file, ".", 1) != 1)
        abort();
    close(file);
    while (access(path, F_OK) == 0)
        usleep(1000);
}

int fsync(int file)
{
    wait_while_there();
    return (int)syscall(SYS_fsync, file);
}

int fdatasync(int file)
{
    wait_while_there();
    return (int)syscall(SYS_fdatasync, file);
}
