// A finished folder as one file: a tar archive of Zstandard frames, which `tar --zstd` reads. Equal
// folders give equal archives: members are sorted, times and owners fixed.
//
// Weights are put into frames as they are: compressing would save about a tenth (zstd -3 on shards of fixtures: 7 to 13 %) and
// take longer than the conversion. Everything else is compressed.
#pragma once

#include <functional>
#include <set>
#include <string>

#include "formats/base/file.h"
#include "formats/manifest.h"

namespace q2c {

struct ArchiveOptions {
  std::string folder;             // what the members lie in
  std::set<std::string> weights;  // names of the files that are stored
  std::function<Status()> check_stop;
};

// Writes dir's files to archive/name and returns what was written, synced. Errors: by errno.
Result<ManifestFile> WriteArchive(const Dir& dir, const Dir& archive, const std::string& name, const ArchiveOptions& options);

// No archive of so many files with so many bytes is larger.
uint64_t ArchiveBudget(uint64_t bytes, uint64_t files);

}  // namespace q2c
