// The undo record, qwen2-convert.undo.zst: what is needed beside an output to make the files of
// its input again, byte for byte. The format is described in undo.md.
//
// An original file is a list of spans: bytes that the record holds, zeros, bytes of an output
// file, or a part of a quantised linear, decoded from the output and encoded in the layout of
// the input. What such a part does not give back by itself lies in patches.
#pragma once

#include <string>
#include <vector>

#include "formats/base/bytes.h"
#include "formats/base/status.h"

namespace q2c {

// A record is read into memory: no longer ones are written, and none are read.
inline constexpr uint64_t kMaxUndoBytes = 128U << 20U;

struct UndoSpan {
  enum class Kind {
    kBytes,  // the next of the file's literals
    kZeros,
    kCopy,   // of output file `source`, from byte `at`
    kPart,   // part `part` of linear `source`, whole
  };
  Kind kind = Kind::kBytes;
  uint64_t bytes = 0;
  size_t source = 0;  // index into UndoRecord::outputs or ::linears
  uint64_t at = 0;
  std::string part;   // suffix in the source's layout: "qzeros"

  friend bool operator==(const UndoSpan&, const UndoSpan&) = default;
};

// Bytes of the original that differ from what the spans give: the next literals after theirs.
struct UndoPatch {
  uint64_t at = 0;  // in the original file
  uint64_t bytes = 0;

  friend bool operator==(const UndoPatch&, const UndoPatch&) = default;
};

struct UndoFile {
  std::string name;
  uint32_t mode = 0;   // permission bits
  uint64_t bytes = 0;
  std::string sha256;
  std::vector<UndoSpan> spans;
  std::vector<UndoPatch> patches;  // in order, apart from each other
  std::vector<std::byte> literals;

  friend bool operator==(const UndoFile&, const UndoFile&) = default;
};

// A file of the output as it was written.
struct UndoOutput {
  std::string name;
  uint64_t bytes = 0;
  std::string sha256;

  friend bool operator==(const UndoOutput&, const UndoOutput&) = default;
};

// A linear that the output stores in another layout, or in other groups, than the input.
struct UndoLinear {
  std::string name;    // in the output
  std::string layout;  // there
  uint64_t in_features = 0;
  uint64_t out_features = 0;
  uint64_t bits = 0;
  uint64_t group_size = 0;
  std::string source_layout;
  uint64_t source_group_size = 0;  // a multiple of group_size
  std::string source_scales;       // their float type where it is another one, else ""

  friend bool operator==(const UndoLinear&, const UndoLinear&) = default;
};

struct UndoRecord {
  std::string tool_version;
  std::vector<UndoOutput> outputs;
  std::vector<UndoLinear> linears;
  std::vector<UndoFile> files;

  friend bool operator==(const UndoRecord&, const UndoRecord&) = default;
};

// The content of the record's file. Errors: kRefused "undo-size" above kMaxUndoBytes.
Result<std::vector<std::byte>> PackUndo(const UndoRecord& record);

// Checks everything that can be checked without the output: names, sizes, indexes, order.
// Errors: kMalformed "undo-damaged"; kRefused "undo-version".
Result<UndoRecord> UnpackUndo(ByteView file);

}  // namespace q2c
