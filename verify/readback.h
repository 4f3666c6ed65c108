// The hash check: every byte that was written is read back once and its XXH3-128 compared
// with that of what was meant to be written.
#pragma once

#include <functional>

#include "formats/base/file.h"
#include "formats/manifest.h"

namespace q2c {

// Where the bytes are read from: the page cache is fast and shows what programs will see;
// the device shows what has reached it (the file is synced and its cache dropped first).
enum class ReadFrom { kCache, kDevice };

struct ReadbackOptions {
  unsigned jobs = 1;
  ReadFrom from = ReadFrom::kCache;
  std::function<Status()> check_stop;
  std::function<void(uint64_t bytes)> progress;
};

// Errors: kFindings "hash" naming file and tensor.
Status VerifyHashes(const Dir& dir, const Manifest& manifest, const ReadbackOptions& options);

}  // namespace q2c
