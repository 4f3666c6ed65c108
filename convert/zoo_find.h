// Finds the checkpoints of a zoo and plans each, as qwen2-convert --dry-run would.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "convert/zoo_plan.h"

namespace q2c {

struct FindOptions {
  std::vector<std::string> include;  // globs over the path below the root; none: everything
  std::vector<std::string> exclude;
  bool whole_files = false;          // for the identity
  std::vector<std::string> options;  // of qwen2-convert
  unsigned jobs = 1;
  const std::atomic<int>* stop = nullptr;
  std::function<void(size_t done, size_t all)> progress;
};

struct FoundZoo {
  ZooPlan plan;                    // largest model first
  std::vector<std::string> notes;  // for people
};

// Every folder below `root` that holds a file of a checkpoint becomes a line: to be converted, or
// refused with the reason. Hidden folders are skipped; so are links to folders, with a note.
// Errors: kUsage, by errno, kInterrupted.
Result<FoundZoo> FindZoo(const std::string& root, const std::string& out, const FindOptions& options);

// What tells one state of a model's folder from another. The cheap one looks at names, sizes, and
// the first and last 64 KiB of each file ("ends:…"); the other reads everything ("whole:…").
// Neither depends on times or places, so equal models have equal identities.
Result<std::string> IdentityOf(const std::string& folder, Links links, bool whole_files);
// Of the same kind as `identity`.
Result<std::string> IdentityLike(const std::string& identity, const std::string& folder, Links links);

}  // namespace q2c
