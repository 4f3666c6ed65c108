// A pickle as data: a stack machine that builds values and does nothing else. It imports no
// module and calls no function; a call is kept as "this name, these arguments", and only names
// on the caller's list may occur at all. Opcodes, limits and where each fact comes from: pickle.md.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "formats/base/bytes.h"
#include "formats/base/status.h"

namespace q2c {

// A name that a pickle may use.
struct PickleGlobal {
  enum class Use : uint8_t {
    kValue,       // stands for itself
    kCall,        // may be called, which gives a kCall
    kDict,        // called it is a dictionary: empty, or from a list of pairs
    kUnread,      // harmless, but what it makes is not read: the pickle is refused
  };
  std::string_view module;
  std::string_view name;
  Use use = Use::kUnread;
};

enum class PickleKind : uint8_t { kNone, kBool, kInt, kLong, kFloat, kText, kBytes, kGlobal, kTuple, kList, kDict, kCall, kPersistent, kAbsent };

// kInt: `number` is an int64. kFloat: the bits of a double. kText, kBytes, kLong (little-endian two's
// complement of more than 8 bytes): `number` is an offset into the pickle. kGlobal: an index into the
// list of names. kTuple, kList, kDict (key, value, key, value …), kCall (name, arguments …),
// kPersistent (the id): an index into Pickle::nodes. kAbsent: no value; never in a graph.
struct PickleValue {
  PickleKind kind = PickleKind::kNone;
  uint32_t size = 0;
  uint64_t number = 0;
};

struct Pickle {
  PickleValue root;
  size_t bytes = 0;  // up to and with the STOP
  std::string_view text;
  std::vector<std::vector<PickleValue>> nodes;
  std::vector<PickleValue> persistent;  // every kPersistent, in the order in which they were met

  std::string_view Text(const PickleValue& value) const { return text.substr(value.number, value.size); }
  std::span<const PickleValue> Items(const PickleValue& value) const { return nodes[value.number]; }
};

// Runs the pickle that `bytes` begins with; they must outlive what is returned. The graph may hold cycles.
// Errors: kMalformed "truncated" (the bytes end before the STOP), "torch-pickle" (no pickle, or one beyond all measure),
// "pickle-code" (a name off the list, or an opcode that would call one); kRefused "torch-unread" (a kUnread name, data of a kind that is not read).
Result<Pickle> ReadPickle(ByteView bytes, std::span<const PickleGlobal> globals);

}  // namespace q2c
