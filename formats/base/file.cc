#include "formats/base/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>

#include "formats/base/system.h"
#include "formats/base/text.h"
#include "formats/base/timings.h"

namespace q2c {
namespace {

// Repeats a call that a signal interrupted.
template <typename Call>
auto Retry(Call call) {
  for (;;) {
    const auto result = call();
    if (result >= 0 || errno != EINTR) return result;
  }
}

FileStamp StampOf(const struct stat& info) {
  const auto ns = [](const timespec& t) { return int64_t{t.tv_sec} * 1000000000 + t.tv_nsec; };
  return {info.st_dev, info.st_ino, static_cast<uint64_t>(info.st_size), ns(info.st_mtim), ns(info.st_ctim), info.st_mode};
}

FileKind KindOfMode(mode_t mode) {
  if (S_ISREG(mode)) return FileKind::kRegular;
  if (S_ISDIR(mode)) return FileKind::kFolder;
  if (S_ISLNK(mode)) return FileKind::kLink;
  return FileKind::kOther;
}

std::string_view ModeName(mode_t mode) {
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a named pipe";
  if (S_ISSOCK(mode)) return "a socket";
  if (S_ISCHR(mode) || S_ISBLK(mode)) return "a device";
  return "no regular file";
}

}  // namespace

Error FromErrno(int number, std::string_view what, const std::string& path) {
  Code code = Code::kIo;
  std::string_view id = "io";
  std::string_view advice;
  if (number == ENOSPC || number == EDQUOT || number == EFBIG) {
    code = Code::kNoSpace, id = "no-space", advice = "; free space or choose another place";
  } else if (number == EACCES || number == EPERM || number == EROFS) {
    code = Code::kPermission, id = "permission", advice = "; check owner and mode";
  }
  return MakeError(code, id, "{} '{}' failed: {}{}", what, Escape(path), std::strerror(number), advice);  // NOLINT(concurrency-mt-unsafe)
}

Fd& Fd::operator=(Fd&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}
Fd::~Fd() {
  if (fd_ >= 0) ::close(fd_);
}

Result<Dir> Dir::Open(const std::string& path, Links links) {
  const int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC | (links == Links::kRefuse ? O_NOFOLLOW : 0);
  Fd fd(Retry([&] { return ::open(path.c_str(), flags); }));
  if (!fd.valid()) {
    if (errno == ENOENT || errno == ENOTDIR || errno == ELOOP || errno == ENAMETOOLONG) {
      return Usage("no-folder", "folder '{}' cannot be opened: {}; check the path", Escape(path), std::strerror(errno));  // NOLINT(concurrency-mt-unsafe)
    }
    return FromErrno(errno, "opening folder", path);
  }
  return Dir(std::move(fd), path);
}

std::string Dir::PathOf(std::string_view name) const { return JoinPath(path_, std::string(name)); }

Result<std::vector<DirEntry>> Dir::List() const {
  const int copy = Retry([&] { return ::openat(fd(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
  if (copy < 0) return FromErrno(errno, "listing folder", path_);
  struct Close {
    void operator()(DIR* d) const { ::closedir(d); }
  };
  const std::unique_ptr<DIR, Close> stream(::fdopendir(copy));
  if (stream == nullptr) {
    const int number = errno;
    ::close(copy);
    return FromErrno(number, "listing folder", path_);
  }
  std::vector<DirEntry> entries;
  for (;;) {
    errno = 0;
    const dirent* entry = ::readdir(stream.get());  // NOLINT(concurrency-mt-unsafe): the stream is ours
    if (entry == nullptr) break;
    const std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    QC_ASSIGN(const FileKind kind, KindOf(name));
    entries.push_back({name, kind});
  }
  if (errno != 0) return FromErrno(errno, "listing folder", path_);
  std::ranges::sort(entries, {}, &DirEntry::name);
  return entries;
}

Result<FileStamp> Dir::Stat() const {
  struct stat info {};
  if (::fstat(fd(), &info) != 0) return FromErrno(errno, "looking at", path_);
  return StampOf(info);
}

Result<std::optional<FileStamp>> Dir::StatOf(const std::string& name) const {
  struct stat info {};
  if (::fstatat(fd(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0) return std::optional<FileStamp>(StampOf(info));
  if (errno == ENOENT) return std::optional<FileStamp>();
  return FromErrno(errno, "looking at", PathOf(name));
}

Result<FileKind> Dir::KindOf(const std::string& name) const {
  struct stat info {};
  if (::fstatat(fd(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) return FromErrno(errno, "looking at", PathOf(name));
  return KindOfMode(info.st_mode);
}

Result<bool> Dir::Has(const std::string& name) const {
  struct stat info {};
  if (::fstatat(fd(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0) return true;
  if (errno == ENOENT) return false;
  if (errno == ENAMETOOLONG) return Usage("path", "name '{}' is longer than the file system allows", Escape(name));
  return FromErrno(errno, "looking at", PathOf(name));
}

Result<std::string> Dir::ReadLink(const std::string& name) const {
  std::array<char, 4096> target{};
  const ssize_t length = ::readlinkat(fd(), name.c_str(), target.data(), target.size());
  if (length < 0) return FromErrno(errno, "reading link", PathOf(name));
  return std::string(target.data(), static_cast<size_t>(length));
}

Result<Dir> Dir::OpenDir(const std::string& name) const {
  Fd fd_of_child(Retry([&] { return ::openat(fd(), name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC); }));
  if (!fd_of_child.valid()) return FromErrno(errno, "opening folder", PathOf(name));
  return Dir(std::move(fd_of_child), PathOf(name));
}

Status Dir::MakeDir(const std::string& name) const {
  if (::mkdirat(fd(), name.c_str(), 0777) != 0) return FromErrno(errno, "creating folder", PathOf(name));
  return {};
}

Status Dir::RemoveFile(const std::string& name) const {
  if (::unlinkat(fd(), name.c_str(), 0) != 0 && errno != ENOENT) return FromErrno(errno, "removing", PathOf(name));
  return {};
}

Status Dir::RemoveTree(const std::string& name) const {
  QC_ASSIGN(const bool exists, Has(name));
  if (!exists) return {};
  QC_ASSIGN(const FileKind kind, KindOf(name));
  if (kind != FileKind::kFolder) return RemoveFile(name);
  {
    QC_ASSIGN(const Dir child, OpenDir(name));
    QC_ASSIGN(const std::vector<DirEntry> entries, child.List());
    for (const DirEntry& entry : entries) QC_TRY(child.RemoveTree(entry.name));
  }
  if (::unlinkat(fd(), name.c_str(), AT_REMOVEDIR) != 0) return FromErrno(errno, "removing folder", PathOf(name));
  return {};
}

Status Dir::Sync() const {
  const Timed timed(Stage::kSync);
  // Some file systems cannot sync a folder and say EINVAL; there is nothing more to be done there.
  if (Retry([&] { return ::fsync(fd()); }) != 0 && errno != EINVAL) return FromErrno(errno, "syncing folder", path_);
  return {};
}

Status Dir::Rename(const std::string& name, const Dir& to, const std::string& target, Move move) const {
  const auto call = move == Move::kReplace ? ::renameat : move == Move::kExchange ? os::RenameExchange : os::RenameNoReplace;
  if (call(fd(), name.c_str(), to.fd(), target.c_str()) == 0) return {};
  if (errno == EEXIST || errno == ENOTEMPTY) {
    return Usage("output-exists", "output '{}' appeared meanwhile or is not empty; nothing was replaced", Escape(to.PathOf(target)));
  }
  return FromErrno(errno, "renaming to", to.PathOf(target));
}

Result<InputFile> InputFile::Open(const Dir& dir, const std::string& name, Links links) {
  const int flags = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | (links == Links::kRefuse ? O_NOFOLLOW : 0);
  std::string path = dir.PathOf(name);
  // Look before opening: opening a pipe, a socket or a device may block, fail oddly or have effects.
  struct stat info {};
  const int at_flags = links == Links::kRefuse ? AT_SYMLINK_NOFOLLOW : 0;
  if (::fstatat(dir.fd(), name.c_str(), &info, at_flags) != 0) {
    if (errno == ENOENT) return Malformed("file-missing", "file '{}' is missing; complete the download or copy", Escape(path));
    if (errno == ELOOP) return Malformed("link-outside", "file '{}' is a link that leads to itself", Escape(path));
    return FromErrno(errno, "opening", path);
  }
  if (S_ISLNK(info.st_mode)) {
    return Malformed("link-outside", "file '{}' is a symbolic link; only links into the blobs/ of the same Hub repository folder are followed, or any with --follow-links", Escape(path));
  }
  if (!S_ISREG(info.st_mode)) {
    return Malformed("file-kind", "file '{}' is {}, expected a regular file", Escape(path), ModeName(info.st_mode));
  }
  Fd fd(Retry([&] { return ::openat(dir.fd(), name.c_str(), flags); }));
  if (!fd.valid()) return FromErrno(errno, "opening", path);
  if (::fstat(fd.get(), &info) != 0) return FromErrno(errno, "looking at", path);
  if (!S_ISREG(info.st_mode)) {
    return Malformed("file-kind", "file '{}' is {}, expected a regular file", Escape(path), ModeName(info.st_mode));
  }
  return InputFile(std::move(fd), StampOf(info), std::move(path));
}

Status InputFile::ReadAt(uint64_t offset, MutableBytes out) const {
  const Timed timed(Stage::kRead);
  while (!out.empty()) {
    const ssize_t count = Retry([&] { return ::pread(fd_.get(), out.data(), out.size(), static_cast<off_t>(offset)); });
    if (count < 0) return FromErrno(errno, "reading", path_);
    if (count == 0) {
      return MakeError(Code::kTryAgain, "changed-during-read", "file '{}' became shorter while it was read: nothing at byte {} of {}; run again when nobody writes to it",
                       Escape(path_), offset, bytes());
    }
    offset += static_cast<uint64_t>(count);
    out = out.subspan(static_cast<size_t>(count));
  }
  return {};
}

Result<std::string> InputFile::ReadAll(uint64_t limit) const {
  if (bytes() > limit) return Malformed("file-size", "file '{}' has {} bytes, expected at most {}", Escape(path_), bytes(), limit);
  std::string text(bytes(), '\0');
  QC_TRY(ReadAt(0, std::as_writable_bytes(std::span(text))));
  return text;
}

Status InputFile::CheckUnchanged() const {
  struct stat info {};
  if (::fstat(fd_.get(), &info) != 0) return FromErrno(errno, "looking at", path_);
  const FileStamp now = StampOf(info);
  if (now.SameContent(stamp_)) return {};
  return MakeError(Code::kTryAgain, "changed-during-read", "file '{}' changed while it was read ({} bytes before, {} now); run again when nobody writes to it",
                   Escape(path_), stamp_.bytes, now.bytes);
}

void InputFile::DropCache() const { os::DropCache(fd_.get()); }

Result<OutputFile> OutputFile::Create(const Dir& dir, const std::string& name) {
  const int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
  const Fd fd(Retry([&] { return ::openat(dir.fd(), name.c_str(), flags, 0666); }));
  if (!fd.valid()) return FromErrno(errno, "creating", dir.PathOf(name));
  return OutputFile(&dir, name);
}

Result<std::optional<OutputFile>> OutputFile::Clone(const Dir& dir, const std::string& name, const InputFile& in) {
  QC_ASSIGN(OutputFile made, Create(dir, name));
  QC_ASSIGN(const Fd fd, made.Open());
  if (Retry([&] { return os::CloneBlocks(fd.get(), in.fd_.get()); }) == 0) return std::optional(std::move(made));
  const int number = errno;
  QC_TRY(dir.RemoveFile(name));
  // What the file systems and the kernel say that cannot do it, for these two files or at all.
  for (const int cannot : {EOPNOTSUPP, EXDEV, EINVAL, ENOTTY, ENOSYS, EPERM, EBADF}) {
    if (number == cannot) return std::optional<OutputFile>();
  }
  return FromErrno(number, "cloning into", dir.PathOf(name));
}

Result<OutputFile> OutputFile::Link(const Dir& dir, const std::string& name, const InputFile& in) {
  if (os::LinkTo(in.fd_.get(), in.path(), dir.fd(), name.c_str()) == 0) {
    OutputFile made(&dir, name);
    made.linked_ = true;
    return made;
  }
  for (const int cannot : {EXDEV, EPERM, EMLINK, ENOENT, EOPNOTSUPP}) {
    if (errno == cannot) return Refused("hardlink", "'{}' cannot be a hard link to '{}': {}; give --untouched=copy", Escape(dir.PathOf(name)), Escape(in.path()), std::strerror(cannot));  // NOLINT(concurrency-mt-unsafe)
  }
  return FromErrno(errno, "linking", dir.PathOf(name));
}

Result<Fd> OutputFile::Open() const {
  Fd fd(Retry([&] { return ::openat(dir_->fd(), name_.c_str(), (linked_ ? O_RDONLY : O_WRONLY) | O_NOFOLLOW | O_CLOEXEC); }));
  if (!fd.valid()) return FromErrno(errno, "opening", dir_->PathOf(name_));
  return fd;
}

Status OutputFile::Preallocate(uint64_t bytes) const {
  if (bytes == 0) return {};
  QC_ASSIGN(const Fd fd, Open());
  if (Retry([&] { return os::Reserve(fd.get(), bytes); }) == 0 || errno == EOPNOTSUPP || errno == EINVAL) return {};
  return FromErrno(errno, "reserving room for", dir_->PathOf(name_));
}

Status OutputFile::WriteAt(uint64_t offset, ByteView bytes) const {
  const Timed timed(Stage::kWrite);
  QC_ASSIGN(const Fd fd, Open());
  while (!bytes.empty()) {
    const ssize_t count = Retry([&] { return ::pwrite(fd.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset)); });
    if (count < 0) return FromErrno(errno, "writing", dir_->PathOf(name_));
    offset += static_cast<uint64_t>(count);
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
  return {};
}

void OutputFile::StartWriteback(uint64_t offset, uint64_t bytes) const {
  const Result<Fd> fd = Open();
  if (fd.ok()) os::StartWriteback(fd.value().get(), offset, bytes);
}

Status OutputFile::SetExecutable() const {
  QC_ASSIGN(const Fd fd, Open());
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return FromErrno(errno, "looking at", dir_->PathOf(name_));
  const mode_t readable = info.st_mode & 0444U;
  if (::fchmod(fd.get(), info.st_mode | (readable >> 2U)) != 0) return FromErrno(errno, "setting the mode of", dir_->PathOf(name_));
  return {};
}

Status OutputFile::Sync() const {
  const Timed timed(Stage::kSync);
  QC_ASSIGN(const Fd fd, Open());
  if (Retry([&] { return ::fsync(fd.get()); }) != 0) return FromErrno(errno, "syncing", dir_->PathOf(name_));
  return {};
}

Status OutputFile::Finish(uint32_t mode) const {
  const Timed timed(Stage::kSync);
  QC_ASSIGN(const Fd fd, Open());
  if (::fchmod(fd.get(), mode & 0777U) != 0) return FromErrno(errno, "setting the mode of", dir_->PathOf(name_));
  if (Retry([&] { return ::fsync(fd.get()); }) != 0) return FromErrno(errno, "syncing", dir_->PathOf(name_));
  return {};
}

Status WriteFile(const Dir& dir, const std::string& name, ByteView bytes) {
  QC_ASSIGN(const OutputFile file, OutputFile::Create(dir, name));
  QC_TRY(file.WriteAt(0, bytes));
  return file.Sync();
}

Status PutFile(const std::string& path, ByteView bytes) {
  const std::string absolute = AbsolutePath(path);
  const std::string name = BaseName(absolute);
  const std::string fresh = fmt::format(".{}.new", name);
  QC_ASSIGN(const Dir dir, Dir::Open(ParentPath(absolute)));
  QC_TRY(dir.RemoveFile(fresh));  // of a run that was killed
  QC_TRY(WriteFile(dir, fresh, bytes));
  return dir.Rename(fresh, dir, name, Dir::Move::kReplace);
}

Result<FileLock> FileLock::Take(const Dir& dir, const std::string& name) {
  for (;;) {
    Fd fd(Retry([&] { return ::openat(dir.fd(), name.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666); }));
    if (!fd.valid()) return FromErrno(errno, "creating lock", dir.PathOf(name));
    if (Retry([&] { return ::flock(fd.get(), LOCK_EX | LOCK_NB); }) != 0) {
      if (errno != EWOULDBLOCK) return FromErrno(errno, "locking", dir.PathOf(name));
      return MakeError(Code::kTryAgain, "locked", "another run is writing here: '{}' is locked; wait for it or choose another output", Escape(dir.PathOf(name)));
    }
    // Whoever held it before may have removed the file between our open and our lock.
    struct stat held {};
    struct stat named {};
    if (::fstat(fd.get(), &held) == 0 && ::fstatat(dir.fd(), name.c_str(), &named, AT_SYMLINK_NOFOLLOW) == 0 &&
        held.st_ino == named.st_ino && held.st_dev == named.st_dev) {
      return FileLock(std::move(fd));
    }
    if (errno != 0 && errno != ENOENT) return FromErrno(errno, "locking", dir.PathOf(name));
  }
}

}  // namespace q2c
