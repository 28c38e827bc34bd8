/* A number that may change at any moment: it stands in the file CHAOS_DIAL. What stands behind this follows it. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static volatile const int64_t *dial;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CHAOS_DIAL");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *mapped = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped != MAP_FAILED)
        dial = mapped;
}

static int64_t dialled(void) { return dial ? *dial : 0; }

