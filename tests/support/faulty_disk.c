/* Makes the disk fail, as a file says: preload this with LD_PRELOAD.
 *
 * FAULTY_DISK_DIRECTORY  files whose path contains this are affected; with a `$` at its end, those whose path
 *                        ends with it
 * FAULTY_DISK_CONTROL    a file with one line; without the file, nothing fails:
 *
 *     write ENOSPC   writing and growing files fails: the disk is full
 *     write EIO      writing and growing files fails: the disk is broken
 *     sync EIO       fsync and fdatasync fail
 *     torn N         the N-th write from here on is written by half, and the process killed as by `kill -9`
 *
 * The control file is read at every call, so a test changes the fault while the process runs. It must not
 * lie in the affected directory.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum fault { NONE, WRITE, SYNC, TORN };

static atomic_long writes_seen;

/* Whether the open file lies in the directory that fails. */
static int affected(int fd) {
    const char *directory = getenv("FAULTY_DISK_DIRECTORY");
    char link[64], path[4096];
    if (directory == NULL || *directory == 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    size_t wanted = strlen(directory);
    if (directory[wanted - 1] != '$') return strstr(path, directory) != NULL;
    wanted -= 1;
    return (size_t)length >= wanted && strncmp(path + length - wanted, directory, wanted) == 0;
}

/* The fault that is set now. System calls go past our own functions below. */
static enum fault current(int *error, long *number) {
    const char *control = getenv("FAULTY_DISK_CONTROL");
    char text[64], kind[16] = "", detail[16] = "";
    if (control == NULL) return NONE;
    long fd = syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return NONE;
    ssize_t length = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    if (length <= 0) return NONE;
    text[length] = 0;
    if (sscanf(text, "%15s %15s", kind, detail) < 1) return NONE;
    *error = strcmp(detail, "ENOSPC") == 0 ? ENOSPC : EIO;
    *number = atol(detail);
    if (strcmp(kind, "write") == 0) return WRITE;
    if (strcmp(kind, "sync") == 0) return SYNC;
    if (strcmp(kind, "torn") == 0) return TORN;
    return NONE;
}

/* The error that a write to `fd` must fail with, or zero. `*torn`: half of it is to be written, as the last deed. */
static int write_fault(int fd, int *torn) {
    int saved = errno, error = 0;
    long number = 0;
    *torn = 0;
    enum fault fault = current(&error, &number);
    if ((fault != WRITE && fault != TORN) || !affected(fd)) error = 0;
    else if (fault == TORN) {
        error = 0;
        *torn = atomic_fetch_add(&writes_seen, 1) + 1 >= number;
    }
    errno = saved;
    return error;
}

static int fail(int error) {
    errno = error;
    return -1;
}

static void die(void) {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}

ssize_t write(int fd, const void *bytes, size_t count) {
    int torn, error = write_fault(fd, &torn);
    if (error) return fail(error);
    if (torn) {
        syscall(SYS_write, fd, bytes, count / 2);
        die();
    }
    return syscall(SYS_write, fd, bytes, count);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
    int torn, error = write_fault(fd, &torn);
    if (error) return fail(error);
    if (torn) {
        syscall(SYS_pwrite64, fd, bytes, count / 2, offset);
        die();
    }
    return syscall(SYS_pwrite64, fd, bytes, count, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) {
    return pwrite64(fd, bytes, count, offset);
}

/* Cutting a file to less needs no room, but SQLite also grows files so. */
int ftruncate64(int fd, off64_t length) {
    int torn, error = write_fault(fd, &torn);
    if (error) return fail(error);
    if (torn) die();
    return (int)syscall(SYS_ftruncate, fd, length);
}

int ftruncate(int fd, off_t length) {
    return ftruncate64(fd, length);
}

int posix_fallocate64(int fd, off64_t offset, off64_t length) {
    int torn, error = write_fault(fd, &torn);
    if (error) return error;
    return syscall(SYS_fallocate, fd, 0, offset, length) == 0 ? 0 : errno;
}

int posix_fallocate(int fd, off_t offset, off_t length) {
    return posix_fallocate64(fd, offset, length);
}

static int sync_file(int fd, long call) {
    int saved = errno, error = 0;
    long number = 0;
    if (current(&error, &number) == SYNC && affected(fd)) return fail(EIO);
    errno = saved;
    return (int)syscall(call, fd);
}

int fsync(int fd) {
    return sync_file(fd, SYS_fsync);
}

int fdatasync(int fd) {
    return sync_file(fd, SYS_fdatasync);
}
