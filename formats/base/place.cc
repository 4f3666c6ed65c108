// Paths, file systems and the environment: what formats/base/file.h says beside files and folders.
#define BOOST_FILESYSTEM_NO_DEPRECATED
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <boost/filesystem.hpp>
#include <cerrno>
#include <cstdlib>

#include "formats/base/file.h"
#include "formats/base/system.h"

namespace q2c {

namespace fs = boost::filesystem;

std::string AbsolutePath(const std::string& path) {
  boost::system::error_code ignored;
  fs::path absolute = fs::path(path).is_absolute() ? fs::path(path) : fs::current_path(ignored) / path;
  absolute = absolute.lexically_normal();
  if (absolute.filename_is_dot()) absolute = absolute.parent_path();  // "a/b/" ends in an empty name
  std::string text = absolute.string();
  while (text.size() > 1 && text.back() == '/') text.pop_back();
  return text;
}
std::string JoinPath(const std::string& folder, const std::string& name) { return (fs::path(folder) / name).string(); }
std::string ParentPath(const std::string& path) { return fs::path(path).parent_path().string(); }
std::string BaseName(const std::string& path) { return fs::path(path).filename().string(); }
std::string RealPath(const std::string& path) {
  boost::system::error_code error;
  const fs::path real = fs::canonical(path, error);
  return error ? std::string() : real.string();
}
bool IsInside(const std::string& path, const std::string& folder) {
  if (path == folder || folder == "/") return true;
  return path.size() > folder.size() && path.starts_with(folder) && path[folder.size()] == '/';
}
bool IsPlainFileName(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string_view::npos &&
         name.find('\\') == std::string_view::npos && name.find('\0') == std::string_view::npos;
}

bool IsMountPoint(const Dir& dir) {
  if (const std::optional<bool> said = os::IsMountRoot(dir.fd()); said.has_value()) return *said;
  struct stat here {};
  struct stat above {};
  return ::fstat(dir.fd(), &here) == 0 && ::fstatat(dir.fd(), "..", &above, 0) == 0 && here.st_dev != above.st_dev;
}

Result<uint64_t> FreeBytes(const Dir& dir) {
  struct statvfs info {};
  if (::fstatvfs(dir.fd(), &info) != 0) return FromErrno(errno, "looking at the file system of", dir.path());
  return uint64_t{info.f_bavail} * info.f_frsize;
}

std::string EnvironmentVariable(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nobody here sets one
  return value == nullptr ? std::string() : std::string(value);
}
std::string HomeFolder() { return EnvironmentVariable("HOME"); }

}  // namespace q2c
