/* Makes everything that waits for the disk take so many milliseconds more as are dialled: syncs, and writes to files that
 * were opened for synchronous writing. */
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>

static void wait_for_disk(void) {
    int64_t more = dialled();
    struct timespec left = {more / 1000, more % 1000 * 1000000};
    while (more > 0 && nanosleep(&left, &left) != 0)
        ;
}

static long written(int fd, long result) {
    if (dialled() > 0 && fcntl(fd, F_GETFL) & O_DSYNC)
        wait_for_disk();
    return result;
}

static long synced(long result) {
    wait_for_disk();
    return result;
}

ssize_t pwrite(int fd, const void *data, size_t bytes, off_t at) {
    return written(fd, syscall(SYS_pwrite64, fd, data, bytes, at));
}
ssize_t pwrite64(int fd, const void *data, size_t bytes, off64_t at) {
    return written(fd, syscall(SYS_pwrite64, fd, data, bytes, at));
}
int fsync(int fd) { return (int)synced(syscall(SYS_fsync, fd)); }
int fdatasync(int fd) { return (int)synced(syscall(SYS_fdatasync, fd)); }
