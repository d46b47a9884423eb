/* Preloaded into a process, this library shifts its CLOCK_REALTIME.
 *
 * CLOCK_SHIFT_FILE names a file whose first eight bytes are the shift in
 * nanoseconds, a signed integer in the byte order of the machine. The file is
 * mapped, so that a change takes effect at once and a look costs nothing.
 * CLOCK_MONOTONIC stays as it is. See shifted.py.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND INT64_C(1000000000)

static volatile const int64_t *mapped;
static int (*real_gettime)(clockid_t, struct timespec *);
static int (*real_timedwait)(sem_t *, const struct timespec *);

static void fail(const char *what)
{
    perror(what);
    _exit(127);
}

static int64_t shift(void)
{
    if (mapped == NULL) {
        const char *path = getenv("CLOCK_SHIFT_FILE");
        int file;
        void *found;
        if (path == NULL)
            return 0;
        file = open(path, O_RDONLY | O_CLOEXEC);
        if (file < 0)
            fail(path);
        found = mmap(NULL, sizeof *mapped, PROT_READ, MAP_SHARED, file, 0);
        if (found == MAP_FAILED)
            fail(path);
        close(file);
        mapped = found;
    }
    return *mapped;
}

static void add(struct timespec *when, int64_t nanoseconds)
{
    int64_t total = when->tv_sec * SECOND + when->tv_nsec + nanoseconds;
    int64_t rest = (total % SECOND + SECOND) % SECOND;
    when->tv_sec = (total - rest) / SECOND;
    when->tv_nsec = rest;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int status;
    if (real_gettime == NULL)
        *(void **)&real_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    status = real_gettime(clock, now);
    if (status == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        add(now, shift());
    return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec found;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &found) != 0)
        return -1;
    now->tv_sec = found.tv_sec;
    now->tv_usec = found.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now)
{
    struct timespec found;
    if (clock_gettime(CLOCK_REALTIME, &found) != 0)
        return -1;
    if (now != NULL)
        *now = found.tv_sec;
    return found.tv_sec;
}

/* CPython 3.10 waits for locks until a time of CLOCK_REALTIME; the kernel's clock
 * is not shifted. */
int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until)
{
    struct timespec unshifted = *until;
    if (real_timedwait == NULL)
        *(void **)&real_timedwait = dlsym(RTLD_NEXT, "sem_timedwait");
    add(&unshifted, -shift());
    return real_timedwait(semaphore, &unshifted);
}
