// Files: the one door to the disk. Everything is opened relative to a folder's
// descriptor, never blocks, and never follows a symbolic link unless asked to.
// Errors name the path and carry the exit code that fits the errno: no space 76,
// permission 77, everything else 74.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "formats/base/bytes.h"
#include "formats/base/status.h"

namespace q2c {

// The error of a failed system call on `path`; for the files of formats/base only.
Error FromErrno(int number, std::string_view what, const std::string& path);

// Owns one file descriptor.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept;
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd();

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

enum class FileKind { kRegular, kFolder, kLink, kOther };

struct DirEntry {
  std::string name;
  FileKind kind = FileKind::kOther;
};

// Identity and state of a file at one moment.
struct FileStamp {
  uint64_t device = 0;
  uint64_t inode = 0;
  uint64_t bytes = 0;
  int64_t modified_ns = 0;
  int64_t changed_ns = 0;
  uint32_t mode = 0;

  // The same file with the same content, as far as can be seen without reading. A new hard
  // link or mode changes only changed_ns and does not matter.
  bool SameContent(const FileStamp& other) const {
    return device == other.device && inode == other.inode && bytes == other.bytes && modified_ns == other.modified_ns;
  }
};

enum class Links { kRefuse, kFollow };

// A folder, held open.
class Dir {
 public:
  // Errors: kUsage "no-folder" if it is absent or not a folder; else by errno.
  static Result<Dir> Open(const std::string& path, Links links = Links::kFollow);

  const std::string& path() const { return path_; }
  int fd() const { return fd_.get(); }
  std::string PathOf(std::string_view name) const;  // for messages

  Result<std::vector<DirEntry>> List() const;  // sorted by name, without . and ..
  Result<FileStamp> Stat() const;
  // Does the name exist (as anything)? A link is not followed.
  Result<bool> Has(const std::string& name) const;
  // Nothing if the name does not exist. A link is not followed.
  Result<std::optional<FileStamp>> StatOf(const std::string& name) const;
  Result<FileKind> KindOf(const std::string& name) const;
  Result<std::string> ReadLink(const std::string& name) const;

  Result<Dir> OpenDir(const std::string& name) const;  // no link
  Status MakeDir(const std::string& name) const;       // 0777 & ~umask
  Status RemoveFile(const std::string& name) const;
  Status RemoveTree(const std::string& name) const;    // links are removed, not followed
  Status Sync() const;

  // Renames name -> to/target. kNoReplace fails with kUsage "exists" if the target exists;
  // kReplace puts it in place of a file or of an empty folder; kExchange swaps the two.
  enum class Move { kNoReplace, kReplace, kExchange };
  Status Rename(const std::string& name, const Dir& to, const std::string& target, Move move) const;

 private:
  Dir(Fd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}
  Fd fd_;
  std::string path_;
};

// A regular file, open for reading.
class InputFile {
 public:
  // Errors: kMalformed "file-missing", "file-kind" (not a regular file), "link-outside" (a link
  // and Links::kRefuse); else by errno.
  static Result<InputFile> Open(const Dir& dir, const std::string& name, Links links = Links::kRefuse);

  // The same under another name in messages: that of the link through which it was found.
  InputFile Called(std::string path) && {
    path_ = std::move(path);
    return std::move(*this);
  }

  const std::string& path() const { return path_; }
  uint64_t bytes() const { return stamp_.bytes; }
  const FileStamp& stamp() const { return stamp_; }

  // Fills `out` from byte `offset`. kTryAgain "changed-during-read" if the file has become shorter.
  Status ReadAt(uint64_t offset, MutableBytes out) const;
  // The whole file; kMalformed "file-size" if it is larger than `limit` bytes.
  Result<std::string> ReadAll(uint64_t limit) const;
  // kTryAgain "changed-during-read" unless size, times and identity are as when it was opened.
  Status CheckUnchanged() const;
  // Forgets cached pages, so that the next read comes from the device.
  void DropCache() const;

 private:
  friend class OutputFile;  // for its descriptor
  InputFile(Fd fd, FileStamp stamp, std::string path) : fd_(std::move(fd)), stamp_(stamp), path_(std::move(path)) {}
  Fd fd_;
  FileStamp stamp_;
  std::string path_;
};

// A new file, 0666 & ~umask. Never replaces one. No descriptor is held between calls, so
// that a model of many shards needs few. The folder must outlive it.
class OutputFile {
 public:
  static Result<OutputFile> Create(const Dir& dir, const std::string& name);
  // One that shares its blocks with `in` until either is written to. Nothing where the file system cannot do it.
  static Result<std::optional<OutputFile>> Clone(const Dir& dir, const std::string& name, const InputFile& in);
  // `in` itself under another name; never to be written to. Errors: kRefused "hardlink" where the file systems differ or forbid it.
  static Result<OutputFile> Link(const Dir& dir, const std::string& name, const InputFile& in);

  const std::string& name() const { return name_; }
  Status Preallocate(uint64_t bytes) const;  // real blocks, so that a full disk shows now
  Status WriteAt(uint64_t offset, ByteView bytes) const;
  // Asks the kernel to begin flushing; waits only where the device's queue is full.
  void StartWriteback(uint64_t offset, uint64_t bytes) const;
  Status SetExecutable() const;
  Status Sync() const;
  // Sets the permission bits, whatever the umask, and syncs. The last thing done to a file: it
  // may be unwritable afterwards.
  Status Finish(uint32_t mode) const;

 private:
  OutputFile(const Dir* dir, std::string name) : dir_(dir), name_(std::move(name)) {}
  Result<Fd> Open() const;
  const Dir* dir_;
  std::string name_;
  bool linked_ = false;
};

// Creates the file, writes it, syncs it.
Status WriteFile(const Dir& dir, const std::string& name, ByteView bytes);
// Puts a file where `path` says, in one step, in place of what was there.
Status PutFile(const std::string& path, ByteView bytes);

// An exclusive lock that dies with the process.
class FileLock {
 public:
  // kTryAgain "locked" if another process holds it.
  static Result<FileLock> Take(const Dir& dir, const std::string& name);

 private:
  explicit FileLock(Fd fd) : fd_(std::move(fd)) {}
  Fd fd_;
};

// Path arithmetic (lexical unless said otherwise).
std::string AbsolutePath(const std::string& path);         // . and .. removed, no trailing slash
std::string JoinPath(const std::string& folder, const std::string& name);
std::string ParentPath(const std::string& path);
std::string BaseName(const std::string& path);
std::string RealPath(const std::string& path);             // resolves links; "" if it does not exist
bool IsInside(const std::string& path, const std::string& folder);  // or equal
bool IsPlainFileName(std::string_view name);               // one component, not '.' or '..'

// Is this path the root of a mounted file system, which cannot be renamed?
bool IsMountPoint(const Dir& dir);
Result<uint64_t> FreeBytes(const Dir& dir);
std::string EnvironmentVariable(const char* name);         // "" if unset
std::string HomeFolder();

}  // namespace q2c
