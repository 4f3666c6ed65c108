// The bytes of a folder against what is on disk that says what they should be: SHA256SUMS, the
// manifest of this toolchain, the names in a Hub cache, the download records of a local folder,
// the resources of an OpenSSF model.sig (its signature is not checked here), LFS pointers.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "verify/checks/checks.h"

namespace q2c {

struct FileHash {
  std::string name;
  uint64_t bytes = 0;
  std::string sha256;
  std::string xxh3;
  std::string git_sha1;  // of small files in a Hub cache; else empty
};

struct IntegrityReport {
  std::vector<std::string> sources;  // what the files were compared with
  std::vector<FileHash> files;
  uint64_t compared = 0;             // files that had something to be compared with
  uint64_t bytes = 0;
};

struct IntegrityOptions {
  bool compare = false;  // else the files are only hashed
  unsigned jobs = 1;
  std::function<Status()> check_stop;
};

// Hashes every regular file of the folder, several at a time.
Result<IntegrityReport> CheckIntegrity(const CheckInput& input, const IntegrityOptions& options, Findings* findings);

}  // namespace q2c
