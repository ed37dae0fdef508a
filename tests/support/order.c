/* Preloaded into a server (LD_PRELOAD): writes into the file that the variable ORDER_LOG names in
 * which order the server appends to its record, syncs, and responds. An append and a sync are noted
 * when they are done, a response before it is sent: what stands before it was done before it. Built
 * and used by src/order.rs. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* `WHAT NAME COUNT`, where the name is the last part of the descriptor's path. */
static void note(const char *what, int file, long count)
{
    const char *log = getenv("ORDER_LOG");
    char link[64], path[1024], line[1200];
    int out = log ? open(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;

    if (out < 0)
        return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    int size = snprintf(line, sizeof line, "%s %s %ld\n", what, name, count);
    if (syscall(SYS_write, out, line, size) != size)
        abort();
    close(out);
}

static long occurrences(const void *bytes, size_t length, const char *text)
{
    const char *at = bytes, *end = at + length;
    long count = 0;

    while ((at = memmem(at, end - at, text, strlen(text)))) {
        at += strlen(text);
        count++;
    }
    return count;
}

static void note_response(int file, const void *bytes, size_t length)
{
    int domain = 0;
    socklen_t size = sizeof domain;
    long count = occurrences(bytes, length, "{\"Status\":\"OK\"}");

    if (count && getsockopt(file, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0)
        note(domain == AF_UNIX ? "backend" : "response", file, count);
    if (occurrences(bytes, length, " listening on "))
        note("listening", file, 1);
}

static int is_record(int file)
{
    char link[64], path[1024];

    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    return length > 6 && memcmp(path + length - 6, ".jsonl", 6) == 0;
}

ssize_t write(int file, const void *bytes, size_t length)
{
    note_response(file, bytes, length);
    ssize_t written = syscall(SYS_write, file, bytes, length);
    if (written > 0 && is_record(file))
        note("append", file, occurrences(bytes, written, "\n"));
    return written;
}

ssize_t send(int file, const void *bytes, size_t length, int flags)
{
    note_response(file, bytes, length);
    return syscall(SYS_sendto, file, bytes, length, flags, NULL, 0);
}

ssize_t writev(int file, const struct iovec *parts, int count)
{
    for (int i = 0; i < count; i++)
        note_response(file, parts[i].iov_base, parts[i].iov_len);
    return syscall(SYS_writev, file, parts, count);
}

ssize_t sendmsg(int file, const struct msghdr *message, int flags)
{
    for (size_t i = 0; i < message->msg_iovlen; i++)
        note_response(file, message->msg_iov[i].iov_base, message->msg_iov[i].iov_len);
    return syscall(SYS_sendmsg, file, message, flags);
}

int fsync(int file)
{
    int result = syscall(SYS_fsync, file);
    note("fsync", file, result);
    return result;
}

int fdatasync(int file)
{
    int result = syscall(SYS_fdatasync, file);
    note("fdatasync", file, result);
    return result;
}
