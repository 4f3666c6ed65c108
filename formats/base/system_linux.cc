#include <fcntl.h>
#include <linux/fs.h>
#include <linux/stat.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <fstream>
#include <iterator>

#include <fmt/format.h>

#include "formats/base/json.h"
#include "formats/base/system.h"

namespace q2c::os {
namespace {

// Files of /proc have no size, so they are read as streams.
std::string ReadProc(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

}  // namespace

const bool kCanExchange = true;
const bool kKnowsProcesses = true;

int RenameNoReplace(int from_dir, const char* from, int to_dir, const char* to) {
  if (::renameat2(from_dir, from, to_dir, to, RENAME_NOREPLACE) == 0) return 0;
  if (errno != EINVAL && errno != ENOSYS) return -1;
  // The file system does not know the flag. A plain rename never replaces a folder that holds something.
  struct stat info {};
  if (::fstatat(to_dir, to, &info, AT_SYMLINK_NOFOLLOW) != 0) return errno == ENOENT ? ::renameat(from_dir, from, to_dir, to) : -1;
  errno = EEXIST;
  return -1;
}

int RenameExchange(int from_dir, const char* from, int to_dir, const char* to) { return ::renameat2(from_dir, from, to_dir, to, RENAME_EXCHANGE); }

int CloneBlocks(int out, int in) { return ::ioctl(out, FICLONE, in); }

int LinkTo(int fd, const std::string& /*path*/, int dir, const char* name) {
  // Through the descriptor: the very file that was opened, whatever its name means by now.
  const std::string self = fmt::format("/proc/self/fd/{}", fd);
  return ::linkat(AT_FDCWD, self.c_str(), dir, name, AT_SYMLINK_FOLLOW);
}

int Reserve(int fd, uint64_t bytes) {
  errno = ::posix_fallocate(fd, 0, static_cast<off_t>(bytes));
  return errno == 0 ? 0 : -1;
}

int SyncData(int fd) { return ::fdatasync(fd); }
void StartWriteback(int fd, uint64_t offset, uint64_t bytes) { ::sync_file_range(fd, static_cast<off_t>(offset), static_cast<off_t>(bytes), SYNC_FILE_RANGE_WRITE); }
void DropCache(int fd) { ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED); }

std::optional<bool> IsMountRoot(int fd) {
  struct statx info {};
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_INO, &info) != 0 || (info.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT) == 0) return std::nullopt;
  return (info.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

void DieWithParent(pid_t parent) {
  (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(1);  // it died before we asked to be told
}

std::string BootId() { return ReadProc("/proc/sys/kernel/random/boot_id"); }

std::string PidSpace() {
  std::array<char, 64> target{};
  const ssize_t length = ::readlink("/proc/self/ns/pid", target.data(), target.size());
  return length < 0 ? "" : std::string(target.data(), static_cast<size_t>(length));
}

// The 22nd field of /proc/PID/stat; the second holds the program's name in brackets, which may hold
// anything. 0 if there is no such process, or only the remains of one that nobody has awaited.
uint64_t StartOf(uint64_t pid) {
  const std::string text = ReadProc(fmt::format("/proc/{}/stat", pid));
  size_t at = text.rfind(')');
  if (at == std::string::npos || at + 2 >= text.size() || text[at + 2] == 'Z' || text[at + 2] == 'X') return 0;
  constexpr int kFieldsBetween = 20;
  for (int i = 0; i < kFieldsBetween && at != std::string::npos; ++i) at = text.find(' ', at + 1);
  if (at == std::string::npos) return 0;
  return Json::Number(text.substr(at + 1, text.find(' ', at + 1) - at - 1)).AsU64().value_or(0);
}

uint64_t FreeMemory() {
  const std::string info = ReadProc("/proc/meminfo");
  constexpr std::string_view kAvailable = "MemAvailable:";
  uint64_t bytes = UINT64_MAX;
  if (const size_t at = info.find(kAvailable); at != std::string::npos) {
    const size_t number = info.find_first_not_of(' ', at + kAvailable.size());
    const std::optional<uint64_t> kib = Json::Number(info.substr(number, info.find(' ', number) - number)).AsU64();
    if (kib.has_value()) bytes = *kib * 1024;
  }
  // Version 2 of control groups: "0::/path".
  const std::string group = ReadProc("/proc/self/cgroup");
  if (group.starts_with("0::/")) {
    const std::string folder = "/sys/fs/cgroup" + group.substr(3, group.find('\n') - 3);
    const std::optional<uint64_t> most = Json::Number(ReadProc(folder + "/memory.max")).AsU64();
    const std::optional<uint64_t> used = Json::Number(ReadProc(folder + "/memory.current")).AsU64();
    if (most.has_value() && used.has_value() && *used < *most) bytes = std::min(bytes, *most - *used);
  }
  return bytes;
}

}  // namespace q2c::os
