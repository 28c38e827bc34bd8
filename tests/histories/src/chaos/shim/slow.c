/* Makes everything that waits for the disk take some milliseconds more, as many as stand in the file CHAOS_SLOW at each
 * moment: syncs, and writes to files that were opened for synchronous writing. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

static volatile const int64_t *millis;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CHAOS_SLOW");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *mapped = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped != MAP_FAILED)
        millis = mapped;
}

static void wait_for_disk(void) {
    int64_t more = millis ? *millis : 0;
    struct timespec left = {more / 1000, more % 1000 * 1000000};
    while (more > 0 && nanosleep(&left, &left) != 0)
        ;
}

static long written(int fd, long result) {
    if (millis && *millis > 0 && fcntl(fd, F_GETFL) & O_DSYNC)
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
