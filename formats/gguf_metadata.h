// What llama.cpp wants to know of a Qwen2-family model besides its tensors: from the side files of a checkpoint to the
// key-values of a GGUF file, and back. Architectures: qwen2, qwen2_moe, qwen3, qwen3_moe. Nothing is executed or rendered.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "formats/base/json.h"
#include "formats/containers/gguf_value.h"

namespace q2c {

struct GgufModelFiles {
  const Json& config;  // config.json
  // The content of a side file (tokenizer.json, tokenizer_config.json, special_tokens_map.json, added_tokens.json, vocab.json,
  // merges.txt, generation_config.json, chat_template.jinja), or nothing where the checkpoint does not have it.
  std::function<Result<std::optional<std::string>>(std::string_view name)> read;
};

// General, architecture and tokenizer keys, in that order. `embedding_rows`: the tokens are filled up to so many with
// `[PAD<id>]`. `file_type` as llama.cpp numbers it (0 F32, 1 F16, 2 Q4_0, 3 Q4_1, 7 Q8_0, 32 BF16). What llama.cpp would
// compute differently, or tokenise differently, is refused.
// Errors: kRefused "architecture", "gguf-config", "gguf-tokenizer"; kMalformed "gguf-config", "gguf-tokenizer", "json".
Result<GgufValues> MakeGgufMetadata(const GgufModelFiles& files, uint32_t file_type, const std::string& name, uint64_t embedding_rows);

// A config.json for transformers. Embeddings are tied where the file has no `output.weight`.
// Errors: kMalformed "gguf-metadata"; kRefused "architecture", "gguf-metadata" (what transformers cannot express).
Result<Json> ConfigFromGguf(const GgufValues& values, bool has_output_tensor);

// tokenizer.json and tokenizer_config.json, as names and contents; a chat template goes into the second.
// Errors: kMalformed "gguf-metadata"; kRefused "gguf-tokenizer" where the kind of tokenizer is not known.
Result<std::vector<std::pair<std::string, std::string>>> TokenizerFromGguf(const GgufValues& values);

}  // namespace q2c
