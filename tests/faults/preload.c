/* Loaded in front of the C library (LD_PRELOAD), so that the program under test is the one that ships.
 *
 *   Q2C_FAULT="CALL:N:WHAT"   the N-th call of that name, counted over the process and its children from 1:
 *                             WHAT is an errno that it fails with, or
 *                               short  half of the bytes are moved
 *                               kill   SIGKILL for the whole process group, in the call's place
 *                               stop   SIGSTOP for this process, before the call
 *   Q2C_COUNT=FILE            how often each was called is written there at exit, one "CALL N" a line
 *   Q2C_LOG=FILE              what was done to files and folders, in order, as losing_power.py reads it
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { OPEN, READ, WRITE, SYNC, RENAME, MKDIR, UNLINK, ALLOCATE, STAT, LIST, LOCK, CLOSE, CALLS };
static const char* const kNames[CALLS] = {"open", "read", "write", "sync", "rename", "mkdir", "unlink", "allocate", "stat", "list", "lock", "close"};
enum { PASS, FAIL, SHORT };
static atomic_int* counts; /* shared with children */
static int target = -1, at, fault, is_short, is_kill, is_stop;
static const char* count_path;
static FILE* log_file;
static pthread_mutex_t log_mutex = PTHREAD_MUTEX_INITIALIZER;
static pid_t first;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void Begin(void) {
  first = getpid();
  counts = mmap(NULL, sizeof(atomic_int) * CALLS, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (counts == MAP_FAILED) abort();
  count_path = getenv("Q2C_COUNT");
  const char* log_path = getenv("Q2C_LOG");
  if (log_path != NULL) log_file = fopen(log_path, "wb");
  const char* said = getenv("Q2C_FAULT");
  char name[32], what[32];
  if (said == NULL || sscanf(said, "%31[^:]:%d:%31s", name, &at, what) != 3) return;
  for (int call = 0; call < CALLS; ++call) {
    if (strcmp(name, kNames[call]) == 0) target = call;
  }
  is_short = strcmp(what, "short") == 0;
  is_kill = strcmp(what, "kill") == 0;
  is_stop = strcmp(what, "stop") == 0;
  fault = atoi(what);
}

__attribute__((destructor)) static void End(void) {
  if (log_file != NULL) fclose(log_file);
  if (count_path == NULL || getpid() != first) return;
  FILE* file = fopen(count_path, "w");
  for (int call = 0; file != NULL && call < CALLS; ++call) fprintf(file, "%s %d\n", kNames[call], counts[call]);
  if (file != NULL) fclose(file);
}

/* What becomes of this call; FAIL: errno is set. */
static int Struck(int call) {
  const int one = atomic_fetch_add(&counts[call], 1) + 1;
  if (target != call || one != at) return PASS;
  if (is_kill) kill(0, SIGKILL);
  if (is_stop) kill(getpid(), SIGSTOP);
  if (is_stop) return PASS;
  if (is_short) return SHORT;
  errno = fault;
  return FAIL;
}

/* The log: each call and its line as one, so that the order is that of the file system. */
static void Lock(void) {
  if (log_file != NULL) pthread_mutex_lock(&log_mutex);
}
static void Unlock(void) {
  if (log_file == NULL) return;
  fflush(log_file);
  pthread_mutex_unlock(&log_mutex);
}
static int Log(int worked, const char* format, ...) {
  const int why = errno;
  if (log_file != NULL && worked) {
    va_list list;
    va_start(list, format);
    vfprintf(log_file, format, list);
    va_end(list);
  }
  errno = why;
  return worked;
}
static unsigned long Inode(int dir, const char* name) {
  struct stat info;
  memset(&info, 0, sizeof info);
  if (log_file == NULL) return 0;
  if (name == NULL && dir != AT_FDCWD) REAL(fstat)(dir, &info);
  else REAL(fstatat)(dir, name == NULL ? "." : name, &info, AT_SYMLINK_NOFOLLOW);
  return info.st_ino;
}

static int OpenAt(int dir, const char* path, int flags, mode_t mode) {
  if (Struck(OPEN) == FAIL) return -1;
  Lock();
  const int is_new = (flags & O_CREAT) != 0 && Inode(dir, path) == 0;
  const int fd = REAL(openat)(dir, path, flags, mode);
  Log(fd >= 0 && is_new, "create %lu %lu %s\n", Inode(dir, NULL), Inode(fd, NULL), path);
  Unlock();
  return fd;
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
  return struck == FAIL ? -1 : REAL(pread)(fd, to, struck == SHORT ? (bytes + 1) / 2 : bytes, offset);
}
ssize_t pwrite(int fd, const void* from, size_t bytes, off_t offset) {
  const int struck = Struck(WRITE);
  if (struck == FAIL) return -1;
  Lock();
  const ssize_t count = REAL(pwrite)(fd, from, struck == SHORT ? (bytes + 1) / 2 : bytes, offset);
  if (Log(count > 0, "write %lu %ld %zd\n", Inode(fd, NULL), (long)offset, count) && log_file != NULL) fwrite(from, 1, (size_t)count, log_file);
  Unlock();
  return count;
}
/* Journals and leases of a zoo, which are not in the log. */
ssize_t write(int fd, const void* from, size_t bytes) {
  if (fd <= 2) return REAL(write)(fd, from, bytes);
  const int struck = Struck(WRITE);
  return struck == FAIL ? -1 : REAL(write)(fd, from, struck == SHORT ? (bytes + 1) / 2 : bytes);
}
static int SyncWith(int (*real)(int), int fd) {
  if (Struck(SYNC) == FAIL) return -1;
  Lock();
  const int result = real(fd);
  Log(result == 0, "sync %lu\n", Inode(fd, NULL));
  Unlock();
  return result;
}
int fsync(int fd) { return SyncWith(REAL(fsync), fd); }
int fdatasync(int fd) { return SyncWith(REAL(fdatasync), fd); }
int renameat2(int a, const char* from, int b, const char* to, unsigned flags) {
  if (Struck(RENAME) == FAIL) return -1;
  Lock();
  const int result = REAL(renameat2)(a, from, b, to, flags);
  Log(result == 0, "rename %lu %lu %u %s/%s\n", Inode(a, NULL), Inode(b, NULL), flags, from, to);
  Unlock();
  return result;
}
int renameat(int a, const char* from, int b, const char* to) { return renameat2(a, from, b, to, 0); }
int mkdirat(int dir, const char* path, mode_t mode) {
  if (Struck(MKDIR) == FAIL) return -1;
  Lock();
  const int result = REAL(mkdirat)(dir, path, mode);
  Log(result == 0, "mkdir %lu %lu %s\n", Inode(dir, NULL), Inode(dir, path), path);
  Unlock();
  return result;
}
int unlinkat(int dir, const char* path, int flags) {
  if (Struck(UNLINK) == FAIL) return -1;
  Lock();
  const int result = REAL(unlinkat)(dir, path, flags);
  Log(result == 0, "unlink %lu %s\n", Inode(dir, NULL), path);
  Unlock();
  return result;
}
int posix_fallocate(int fd, off_t from, off_t bytes) {
  if (Struck(ALLOCATE) == FAIL) return errno;
  Lock();
  const int result = REAL(posix_fallocate)(fd, from, bytes);
  Log(result == 0, "allocate %lu %ld\n", Inode(fd, NULL), (long)(from + bytes));
  Unlock();
  return result;
}
int fstat(int fd, struct stat* info) { return Struck(STAT) == FAIL ? -1 : REAL(fstat)(fd, info); }
int fstatat(int dir, const char* path, struct stat* info, int flags) { return Struck(STAT) == FAIL ? -1 : REAL(fstatat)(dir, path, info, flags); }
int fstatvfs(int fd, struct statvfs* info) { return Struck(STAT) == FAIL ? -1 : REAL(fstatvfs)(fd, info); }
struct dirent* readdir(DIR* dir) { return Struck(LIST) == FAIL ? NULL : REAL(readdir)(dir); }
int flock(int fd, int operation) { return Struck(LOCK) == FAIL ? -1 : REAL(flock)(fd, operation); }
/* The descriptor is gone all the same, as on Linux. */
int close(int fd) {
  const int struck = Struck(CLOSE);
  const int why = errno;
  const int closed = REAL(close)(fd);
  if (struck != FAIL) return closed;
  errno = why;
  return -1;
}
