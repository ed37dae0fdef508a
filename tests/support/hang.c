/* Preloaded into a server (LD_PRELOAD): a disk that hangs, or fails. As long as the file exists
 * that the variable HANG_WHILE names, fsync and fdatasync wait. Each that begins to wait adds a
 * byte to the file, so that a test can wait for that. As long as the file exists that FAIL_WHILE
 * names, calls fail with the error number in it: fsync and fdatasync, and, if the number follows
 * an `r` (read-only), all that would change a file. Built and used by src/disk.rs. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
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

static int fails(int changes_a_file)
{
    const char *path = getenv("FAIL_WHILE");
    char text[8] = "";
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    int is_read_only, before = errno;

    if (file < 0)
        return 0;
    if (read(file, text, sizeof text - 1) < 0)
        abort();
    close(file);
    errno = before;
    is_read_only = text[0] == 'r';
    if (changes_a_file && !is_read_only)
        return 0;
    errno = atoi(text + is_read_only);
    return 1;
}

int fsync(int file)
{
    wait_while_there();
    return fails(0) ? -1 : (int)syscall(SYS_fsync, file);
}

int fdatasync(int file)
{
    wait_while_there();
    return fails(0) ? -1 : (int)syscall(SYS_fdatasync, file);
}

int ftruncate64(int file, off64_t length)
{
    int (*next)(int, off64_t) = (int (*)(int, off64_t))dlsym(RTLD_NEXT, "ftruncate64");

    return fails(1) ? -1 : next(file, length);
}

ssize_t write(int file, const void *bytes, size_t count)
{
    struct stat status;

    if (fstat(file, &status) == 0 && S_ISREG(status.st_mode) && getenv("FAIL_WHILE") && fails(1))
        return -1;
    return syscall(SYS_write, file, bytes, count);
}

int open64(const char *path, int flags, ...)
{
    va_list arguments;
    int mode;

    va_start(arguments, flags);
    mode = va_arg(arguments, int);
    va_end(arguments);
    if ((flags & O_ACCMODE) != O_RDONLY && fails(1))
        return -1;
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}
