// Runs a fuzz target over the files of its corpus, without a fuzzing engine.
#include <cstddef>
#include <cstdint>
#include <cstdio>

#include "formats/base/file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

int main(int argc, char** argv) {
  size_t runs = 0;
  for (int i = 1; i < argc; ++i) {
    const auto dir = q2c::Dir::Open(argv[i]);
    if (!dir.ok()) return 1;
    const auto entries = dir.value().List();
    if (!entries.ok()) return 1;
    for (const q2c::DirEntry& entry : entries.value()) {
      const auto file = q2c::InputFile::Open(dir.value(), entry.name);
      if (!file.ok()) return 1;
      const auto text = file.value().ReadAll(UINT64_MAX);
      if (!text.ok()) return 1;
      LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(text.value().data()), text.value().size());  // NOLINT
      ++runs;
    }
  }
  std::printf("%zu inputs\n", runs);
  return runs == 0 ? 1 : 0;
}
