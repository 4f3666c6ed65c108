#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <thread>

#include "formats/base/system.h"

namespace q2c::os {

const bool kCanExchange = false;
const bool kKnowsProcesses = false;

int RenameNoReplace(int from_dir, const char* from, int to_dir, const char* to) {
  struct stat info {};
  if (::fstatat(from_dir, from, &info, AT_SYMLINK_NOFOLLOW) != 0) return -1;
  if (!S_ISDIR(info.st_mode)) {
    // A link is refused where the name exists.
    return ::linkat(from_dir, from, to_dir, to, 0) != 0 ? -1 : ::unlinkat(from_dir, from, 0);
  }
  // So is a new folder; and a folder is renamed over an empty one only.
  if (::mkdirat(to_dir, to, S_IRWXU) != 0) return -1;
  if (::renameat(from_dir, from, to_dir, to) == 0) return 0;
  const int why = errno;
  (void)::unlinkat(to_dir, to, AT_REMOVEDIR);  // not if somebody has put something there
  errno = why;
  return -1;
}

int RenameExchange(int /*from_dir*/, const char* /*from*/, int /*to_dir*/, const char* /*to*/) {
  errno = ENOTSUP;
  return -1;
}

int CloneBlocks(int /*out*/, int /*in*/) {
  errno = ENOTSUP;
  return -1;
}

int LinkTo(int fd, const std::string& path, int dir, const char* name) {
  if (::linkat(AT_FDCWD, path.c_str(), dir, name, AT_SYMLINK_FOLLOW) != 0) return -1;
  struct stat meant {};
  struct stat made {};
  if (::fstat(fd, &meant) == 0 && ::fstatat(dir, name, &made, AT_SYMLINK_NOFOLLOW) == 0 && meant.st_dev == made.st_dev && meant.st_ino == made.st_ino) return 0;
  (void)::unlinkat(dir, name, 0);
  errno = ENOENT;
  return -1;
}

int Reserve(int fd, uint64_t bytes) {
  static constexpr std::array<char, 1 << 16> kZeros{};
  for (uint64_t at = 0; at < bytes;) {
    const ssize_t count = ::pwrite(fd, kZeros.data(), std::min<uint64_t>(kZeros.size(), bytes - at), static_cast<off_t>(at));
    if (count < 0 && errno != EINTR) return -1;
    if (count > 0) at += static_cast<uint64_t>(count);
  }
  return 0;
}

int SyncData(int fd) { return ::fsync(fd); }
void StartWriteback(int /*fd*/, uint64_t /*offset*/, uint64_t /*bytes*/) {}
void DropCache(int /*fd*/) {}
std::optional<bool> IsMountRoot(int /*fd*/) { return std::nullopt; }

void DieWithParent(pid_t parent) {
  if (::getppid() != parent) ::_exit(1);
  std::thread([parent] {
    while (::getppid() == parent) std::this_thread::sleep_for(std::chrono::milliseconds(200));
    ::_exit(1);
  }).detach();
}

std::string BootId() { return "unknown"; }
std::string PidSpace() { return ""; }

uint64_t StartOf(uint64_t pid) {
  static const auto kBegun = static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch().count());
  return pid == static_cast<uint64_t>(::getpid()) ? kBegun : 0;
}

uint64_t FreeMemory() {
  const long pages = ::sysconf(_SC_PHYS_PAGES);
  const long bytes = ::sysconf(_SC_PAGESIZE);
  return pages > 0 && bytes > 0 ? static_cast<uint64_t>(pages) * static_cast<uint64_t>(bytes) : UINT64_MAX;
}

}  // namespace q2c::os
