/* Loaded in front of the C library (LD_PRELOAD), so that the program under test is the one that ships.
 *
 *   Q2C_FAULT="CALL:N:WHAT"   the N-th call of that name (1, 2, …; "any" counts all of them) fails with errno WHAT,
 *                             is "short" (half of the bytes are moved), or the process is "kill"ed in its place
 *                             by SIGKILL
 *   Q2C_COUNT=FILE            how often each was called is written there at exit, one "CALL N" a line
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { OPEN, READ, WRITE, SYNC, RENAME, MKDIR, UNLINK, ALLOCATE, STAT, LIST, LOCK, CLOSE, ANY, CALLS };
static const char* const kNames[CALLS] = {"open", "read", "write", "sync", "rename", "mkdir", "unlink", "allocate", "stat", "list", "lock", "close", "any"};
static atomic_int counts[CALLS];
static int target = -1, at, fault, is_short, is_kill;
static const char* count_path;

__attribute__((constructor)) static void Begin(void) {
  count_path = getenv("Q2C_COUNT");
  const char* said = getenv("Q2C_FAULT");
  char name[32], what[32];
  if (said == NULL || sscanf(said, "%31[^:]:%d:%31s", name, &at, what) != 3) return;
  for (int call = 0; call < CALLS; ++call) {
    if (strcmp(name, kNames[call]) == 0) target = call;
  }
  is_short = strcmp(what, "short") == 0;
  is_kill = strcmp(what, "kill") == 0;
  fault = atoi(what);
}

__attribute__((destructor)) static void End(void) {
  if (count_path == NULL) return;
  FILE* file = fopen(count_path, "w");
  for (int call = 0; file != NULL && call < CALLS; ++call) fprintf(file, "%s %d\n", kNames[call], counts[call]);
  if (file != NULL) fclose(file);
}

/* 0: go on; 1: fail, errno is set; 2: move half of the bytes. */
static int Struck(int call) {
  const int one = atomic_fetch_add(&counts[call], 1) + 1;
  const int any = atomic_fetch_add(&counts[ANY], 1) + 1;
  if (!(target == call && one == at) && !(target == ANY && any == at)) return 0;
  if (is_kill) kill(getpid(), SIGKILL);
  if (is_short) return 2;
  errno = fault;
  return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int OpenAt(int dir, const char* path, int flags, mode_t mode) {
  if (Struck(OPEN) == 1) return -1;
  return REAL(openat)(dir, path, flags, mode);
}
int openat(int dir, const char* path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(list, mode_t) : 0;
  va_end(list);
  return OpenAt(dir, path, flags, mode);
}
int open(const char* path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(list, mode_t) : 0;
  va_end(list);
  return OpenAt(AT_FDCWD, path, flags, mode);
}
int __open_2(const char* path, int flags) { return OpenAt(AT_FDCWD, path, flags, 0); }
int __openat_2(int dir, const char* path, int flags) { return OpenAt(dir, path, flags, 0); }

ssize_t pread(int fd, void* to, size_t bytes, off_t offset) {
  const int struck = Struck(READ);
  return struck == 1 ? -1 : REAL(pread)(fd, to, struck == 2 ? (bytes + 1) / 2 : bytes, offset);
}
ssize_t pwrite(int fd, const void* from, size_t bytes, off_t offset) {
  const int struck = Struck(WRITE);
  return struck == 1 ? -1 : REAL(pwrite)(fd, from, struck == 2 ? (bytes + 1) / 2 : bytes, offset);
}
int fsync(int fd) { return Struck(SYNC) == 1 ? -1 : REAL(fsync)(fd); }
int fdatasync(int fd) { return Struck(SYNC) == 1 ? -1 : REAL(fdatasync)(fd); }
int renameat(int a, const char* from, int b, const char* to) { return Struck(RENAME) == 1 ? -1 : REAL(renameat)(a, from, b, to); }
int renameat2(int a, const char* from, int b, const char* to, unsigned flags) { return Struck(RENAME) == 1 ? -1 : REAL(renameat2)(a, from, b, to, flags); }
int mkdirat(int dir, const char* path, mode_t mode) { return Struck(MKDIR) == 1 ? -1 : REAL(mkdirat)(dir, path, mode); }
int unlinkat(int dir, const char* path, int flags) { return Struck(UNLINK) == 1 ? -1 : REAL(unlinkat)(dir, path, flags); }
int posix_fallocate(int fd, off_t from, off_t bytes) { return Struck(ALLOCATE) == 1 ? errno : REAL(posix_fallocate)(fd, from, bytes); }
int fstat(int fd, struct stat* info) { return Struck(STAT) == 1 ? -1 : REAL(fstat)(fd, info); }
int fstatat(int dir, const char* path, struct stat* info, int flags) { return Struck(STAT) == 1 ? -1 : REAL(fstatat)(dir, path, info, flags); }
int fstatvfs(int fd, struct statvfs* info) { return Struck(STAT) == 1 ? -1 : REAL(fstatvfs)(fd, info); }
struct dirent* readdir(DIR* dir) { return Struck(LIST) == 1 ? NULL : REAL(readdir)(dir); }
int flock(int fd, int operation) { return Struck(LOCK) == 1 ? -1 : REAL(flock)(fd, operation); }
/* The descriptor is gone all the same, as on Linux. */
int close(int fd) {
  const int struck = Struck(CLOSE);
  const int why = errno;
  const int closed = REAL(close)(fd);
  if (struck != 1) return closed;
  errno = why;
  return -1;
}
