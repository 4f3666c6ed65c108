// The state dict in a pickle of PyTorch: which tensors there are, and which elements of which storage each is made of.
// What PyTorch writes: torch_zip.md.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "formats/containers/pickle.h"
#include "formats/tensor.h"

namespace q2c {

struct TorchHeader {
  std::vector<TensorInfo> tensors;    // as the state dict has them; offsets count from the start of the file
  std::vector<std::string> warnings;
};

// A run of elements that tensors are views of.
struct TorchStorage {
  uint64_t bytes = 0;
  uint64_t offset = 0;      // of its first byte in the file; filled in by the container
  uint64_t item_bytes = 0;  // of what it is declared to hold
};
using TorchStorages = std::map<std::string, TorchStorage, std::less<>>;  // by key

// The names that may occur in a PyTorch file.
std::span<const PickleGlobal> TorchGlobals();

// Every storage that the pickle refers to, without its place. Errors: kMalformed "torch-state".
Result<TorchStorages> CollectStorages(const Pickle& pickle);

// The tensors of the state dict: the object itself, or under one of the usual names in it ("state_dict", "model", …).
// Every element of every tensor lies inside its storage. Errors: kMalformed "torch-state";
// kRefused "torch-unread" for tensors that are not plain.
Result<TorchHeader> ReadStateDict(const Pickle& pickle, const TorchStorages& storages, uint64_t file_bytes);

}  // namespace q2c
