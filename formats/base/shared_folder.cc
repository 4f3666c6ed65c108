#include "formats/base/shared_folder.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "formats/base/system.h"
#include "formats/base/text.h"

namespace q2c {
namespace {

// All of it, whatever interrupts; false with errno.
bool WriteWhole(int fd, ByteView bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(fd, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return false;
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
  return true;
}

Result<Dir> Descend(const Dir& dir, const std::string& path, bool make) {
  QC_ASSIGN(Dir here, Dir::Open(dir.path()));
  if (path == ".") return here;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string name = path.substr(begin, end - begin);
    if (!IsPlainFileName(name)) return Usage("path", "'{}' is no path below '{}'", Escape(path), Escape(dir.path()));
    if (make && ::mkdirat(here.fd(), name.c_str(), 0777) != 0 && errno != EEXIST) return FromErrno(errno, "creating folder", here.PathOf(name));
    QC_ASSIGN(here, here.OpenDir(name));
    begin = end + 1;
  }
  return here;
}

}  // namespace

Result<bool> CreateExclusively(const Dir& dir, const std::string& name, ByteView content) {
  const Fd fd(::openat(dir.fd(), name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666));
  if (!fd.valid() && errno == EEXIST) return false;
  if (!fd.valid()) return FromErrno(errno, "creating", dir.PathOf(name));
  if (!WriteWhole(fd.get(), content)) {
    const int why = errno;
    (void)dir.RemoveFile(name);
    return FromErrno(why, "writing", dir.PathOf(name));
  }
  return true;
}

Result<bool> Touch(const Dir& dir, const std::string& name) {
  // Without times given, the server that keeps the file takes its own clock.
  if (::utimensat(dir.fd(), name.c_str(), nullptr, 0) == 0) return true;
  if (errno == ENOENT) return false;
  return FromErrno(errno, "touching", dir.PathOf(name));
}

Result<Dir> OpenBelow(const Dir& dir, const std::string& path) { return Descend(dir, path, false); }
Result<Dir> MakeBelow(const Dir& dir, const std::string& path) { return Descend(dir, path, true); }

Result<AppendFile> AppendFile::Create(const Dir& dir, const std::string& name) {
  Fd fd(::openat(dir.fd(), name.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666));
  if (!fd.valid()) return FromErrno(errno, "creating", dir.PathOf(name));
  QC_TRY(dir.Sync());
  return AppendFile(std::move(fd), dir.PathOf(name));
}

Status AppendFile::Append(std::string_view text) const {
  if (!WriteWhole(fd_.get(), AsBytes(text))) return FromErrno(errno, "appending to", path_);
  while (os::SyncData(fd_.get()) != 0) {
    if (errno != EINTR) return FromErrno(errno, "syncing", path_);
  }
  struct stat info {};
  if (::fstat(fd_.get(), &info) != 0) return FromErrno(errno, "looking at", path_);
  if (info.st_nlink == 0) return MakeError(Code::kIo, "vanished", "'{}' was removed while it was written to", Escape(path_));
  return {};
}

Result<uint64_t> VisitLines(const InputFile& file, uint64_t* offset, uint64_t limit, const std::function<Status(std::string_view)>& visit) {
  constexpr uint64_t kPiece = 1 << 18;
  std::string kept;  // the beginning of a line
  for (uint64_t at = *offset; at < file.bytes();) {
    std::string piece(std::min(kPiece, file.bytes() - at), '\0');
    QC_TRY(file.ReadAt(at, std::as_writable_bytes(std::span(piece))));
    at += piece.size();
    size_t begin = 0;
    for (size_t end = piece.find('\n'); end != std::string::npos; end = piece.find('\n', begin)) {
      kept.append(piece, begin, end - begin);
      begin = end + 1;
      QC_TRY(visit(kept));
      *offset += kept.size() + 1;
      kept.clear();
    }
    kept.append(piece, begin);
    if (kept.size() > limit) return MakeError(Code::kMalformed, "line", "file '{}': the line at byte {} is longer than {} bytes", Escape(file.path()), *offset, limit);
  }
  return uint64_t{kept.size()};
}

}  // namespace q2c
