// Real texts as token ids, for vocabularies that are known by their merges. A model that is
// read rightly finds a text likelier than one that is read wrongly, which no comparison of
// two equal readings can show.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/checkpoint.h"

namespace q2c {

struct KnownText {
  std::string_view vocabulary;     // "Qwen"
  std::string_view merges_sha256;  // of all merges, each as "left right\n"
  std::vector<uint32_t> tokens;
};

// The text for the checkpoint's vocabulary, by tokenizer.json or merges.txt; null if it is not
// known or there is none. Errors: kIo.
Result<const KnownText*> FindText(const Checkpoint& checkpoint);

}  // namespace q2c
