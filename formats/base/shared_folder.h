// What several processes, perhaps on several machines, do in one folder: create a file that
// only one of them can create, tell the time by the clock of the file system, append to a
// log and follow the logs of the others.
//
// Creating exclusively is atomic on local file systems, NFS from version 3 on, and Lustre.
// Times are set to "now" by the server that keeps the file, so that comparing two times of
// one file system needs no agreement between the clocks of the machines.
#pragma once

#include <functional>
#include <string>

#include "formats/base/file.h"

namespace q2c {

// Creates the file and writes it. False if the name exists already; on an error there is no file.
Result<bool> CreateExclusively(const Dir& dir, const std::string& name, ByteView content);

// Sets the time of change to now. False if there is no such file.
Result<bool> Touch(const Dir& dir, const std::string& name);

// Opens `path`, relative and of plain names, below `dir`; no component may be a link. "." is `dir` itself.
Result<Dir> OpenBelow(const Dir& dir, const std::string& path);
// The same, creating what is not there.
Result<Dir> MakeBelow(const Dir& dir, const std::string& path);

// A new log that one process appends to.
class AppendFile {
 public:
  // Errors: by errno, an existing file among them.
  static Result<AppendFile> Create(const Dir& dir, const std::string& name);
  const std::string& path() const { return path_; }
  // Has reached the device when it returns. Errors: by errno; kIo "vanished" if nobody could
  // find the log any more.
  Status Append(std::string_view text) const;

 private:
  AppendFile(Fd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}
  Fd fd_;
  std::string path_;
};

// Hands over each complete line from byte `*offset` on, without its newline, and moves `*offset`
// behind the last one. What follows the last newline – somebody is still writing it, or died
// over it – is left, and its length returned. Errors: kMalformed "line" for a line longer than `limit`.
Result<uint64_t> VisitLines(const InputFile& file, uint64_t* offset, uint64_t limit, const std::function<Status(std::string_view line)>& visit);

}  // namespace q2c
