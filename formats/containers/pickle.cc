#include "formats/containers/pickle.h"

#include <algorithm>
#include <array>
#include <optional>

#include "formats/base/text.h"

namespace q2c {
namespace {

constexpr size_t kMaxStack = 1'000'000;
constexpr size_t kMaxSteps = 6'000'000;
constexpr size_t kMaxNodes = 2'000'000;

// What stands behind an opcode.
enum class Operand : uint8_t { kNone, kByte, kTwo, kFour, kEight, kByteText, kFourText, kEightText, kLines };

enum class Action : uint8_t {
  kProto, kMark, kStop, kPop, kPopMark, kDup, kGlobal, kStackGlobal, kReduce, kBuild, kPut, kMemoize, kGet,
  kNone, kTrue, kFalse, kInt, kSigned, kLong, kFloat, kText, kBytes, kFrame, kPersistent,
  kTuple, kEmptyTuple, kTuple1, kTuple2, kTuple3, kEmptyList, kAppend, kAppends, kEmptyDict, kSetItem, kSetItems,
  kCalls,    // would call what it names or what lies on the stack: never
  kUnread,   // data of a kind that no state dict holds
};

struct Opcode {
  char byte;
  std::string_view name;
  Operand operand = Operand::kNone;
  Action action = Action::kUnread;
};

constexpr std::array kOpcodes = {
    Opcode{'\x80', "PROTO", Operand::kByte, Action::kProto}, Opcode{'\x95', "FRAME", Operand::kEight, Action::kFrame},
    Opcode{'(', "MARK", Operand::kNone, Action::kMark}, Opcode{'.', "STOP", Operand::kNone, Action::kStop},
    Opcode{'0', "POP", Operand::kNone, Action::kPop}, Opcode{'1', "POP_MARK", Operand::kNone, Action::kPopMark}, Opcode{'2', "DUP", Operand::kNone, Action::kDup},
    Opcode{'c', "GLOBAL", Operand::kLines, Action::kGlobal}, Opcode{'\x93', "STACK_GLOBAL", Operand::kNone, Action::kStackGlobal},
    Opcode{'R', "REDUCE", Operand::kNone, Action::kReduce}, Opcode{'b', "BUILD", Operand::kNone, Action::kBuild}, Opcode{'Q', "BINPERSID", Operand::kNone, Action::kPersistent},
    Opcode{'q', "BINPUT", Operand::kByte, Action::kPut}, Opcode{'r', "LONG_BINPUT", Operand::kFour, Action::kPut}, Opcode{'\x94', "MEMOIZE", Operand::kNone, Action::kMemoize},
    Opcode{'h', "BINGET", Operand::kByte, Action::kGet}, Opcode{'j', "LONG_BINGET", Operand::kFour, Action::kGet},
    Opcode{'N', "NONE", Operand::kNone, Action::kNone}, Opcode{'\x88', "NEWTRUE", Operand::kNone, Action::kTrue}, Opcode{'\x89', "NEWFALSE", Operand::kNone, Action::kFalse},
    Opcode{'K', "BININT1", Operand::kByte, Action::kInt}, Opcode{'M', "BININT2", Operand::kTwo, Action::kInt}, Opcode{'J', "BININT", Operand::kFour, Action::kSigned},
    Opcode{'\x8a', "LONG1", Operand::kByteText, Action::kLong}, Opcode{'\x8b', "LONG4", Operand::kFourText, Action::kLong}, Opcode{'G', "BINFLOAT", Operand::kEight, Action::kFloat},
    Opcode{'X', "BINUNICODE", Operand::kFourText, Action::kText}, Opcode{'\x8c', "SHORT_BINUNICODE", Operand::kByteText, Action::kText},
    Opcode{'\x8d', "BINUNICODE8", Operand::kEightText, Action::kText},
    Opcode{'U', "SHORT_BINSTRING", Operand::kByteText, Action::kText}, Opcode{'T', "BINSTRING", Operand::kFourText, Action::kText},  // Python 2
    Opcode{'C', "SHORT_BINBYTES", Operand::kByteText, Action::kBytes}, Opcode{'B', "BINBYTES", Operand::kFourText, Action::kBytes},
    Opcode{'\x8e', "BINBYTES8", Operand::kEightText, Action::kBytes},
    Opcode{')', "EMPTY_TUPLE", Operand::kNone, Action::kEmptyTuple}, Opcode{'t', "TUPLE", Operand::kNone, Action::kTuple},
    Opcode{'\x85', "TUPLE1", Operand::kNone, Action::kTuple1}, Opcode{'\x86', "TUPLE2", Operand::kNone, Action::kTuple2}, Opcode{'\x87', "TUPLE3", Operand::kNone, Action::kTuple3},
    Opcode{']', "EMPTY_LIST", Operand::kNone, Action::kEmptyList}, Opcode{'a', "APPEND", Operand::kNone, Action::kAppend}, Opcode{'e', "APPENDS", Operand::kNone, Action::kAppends},
    Opcode{'}', "EMPTY_DICT", Operand::kNone, Action::kEmptyDict}, Opcode{'s', "SETITEM", Operand::kNone, Action::kSetItem}, Opcode{'u', "SETITEMS", Operand::kNone, Action::kSetItems},
    Opcode{'i', "INST", Operand::kLines, Action::kCalls}, Opcode{'o', "OBJ", Operand::kNone, Action::kCalls}, Opcode{'\x81', "NEWOBJ", Operand::kNone, Action::kCalls},
    Opcode{'\x92', "NEWOBJ_EX", Operand::kNone, Action::kCalls}, Opcode{'\x82', "EXT1", Operand::kNone, Action::kCalls}, Opcode{'\x83', "EXT2", Operand::kNone, Action::kCalls},
    Opcode{'\x84', "EXT4", Operand::kNone, Action::kCalls}, Opcode{'P', "PERSID", Operand::kNone, Action::kCalls},
    Opcode{'I', "INT"}, Opcode{'L', "LONG"}, Opcode{'S', "STRING"}, Opcode{'V', "UNICODE"}, Opcode{'F', "FLOAT"}, Opcode{'p', "PUT"}, Opcode{'g', "GET"},
    Opcode{'l', "LIST"}, Opcode{'d', "DICT"}, Opcode{'\x8f', "EMPTY_SET"}, Opcode{'\x90', "ADDITEMS"}, Opcode{'\x91', "FROZENSET"},
    Opcode{'\x96', "BYTEARRAY8"}, Opcode{'\x97', "NEXT_BUFFER"}, Opcode{'\x98', "READONLY_BUFFER"},
};

constexpr auto kByByte = [] {
  std::array<const Opcode*, 256> table{};
  for (const Opcode& opcode : kOpcodes) table[static_cast<unsigned char>(opcode.byte)] = &opcode;
  return table;
}();

// What was read behind an opcode: a number, or a piece of text at `number`.
struct Argument {
  uint64_t number = 0;
  uint64_t size = 0;
  std::string_view module;
  std::string_view name;
};

class Machine {
 public:
  Machine(ByteView bytes, std::span<const PickleGlobal> globals) : globals_(globals) {
    pickle_.text = std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());  // NOLINT: bytes as text
    pickle_.nodes.emplace_back();  // the one empty tuple
  }

  Result<Pickle> Run() {
    for (;;) {
      const size_t at = at_;
      if (at_ == pickle_.text.size()) return Short();
      ++steps_;
      const char byte = pickle_.text[at_++];
      const Opcode* opcode = kByByte[static_cast<unsigned char>(byte)];
      if (opcode == nullptr) return Malformed("torch-pickle", "byte {:#04x} at {} of the pickle is no opcode", static_cast<unsigned char>(byte), at);
      if (opcode->action == Action::kStop) break;
      QC_ASSIGN(const Argument argument, ReadArgument(*opcode));
      if (opcode->action == Action::kUnread) {
        return Refused("torch-unread", "the pickle uses the opcode {} at byte {}, which no state dict of protocol 2 to 4 needs; save it again with PyTorch", opcode->name, at);
      }
      QC_TRY(Step(*opcode, argument));
      if (steps_ > kMaxSteps || pickle_.nodes.size() > kMaxNodes || stack_.size() > kMaxStack) return Malformed("torch-pickle", "the pickle is longer or deeper than a state dict can be");
    }
    if (stack_.size() != 1 || !marks_.empty()) return Stack("STOP");
    pickle_.root = stack_.front();
    pickle_.bytes = at_;
    return std::move(pickle_);
  }

 private:
  static Error Short() { return Malformed("truncated", "the pickle ends before its STOP: it is cut short; download or copy the file again"); }
  static Error Stack(std::string_view opcode) { return Malformed("torch-pickle", "the opcode {} finds nothing, or something of another kind, on the stack: the pickle is damaged", opcode); }
  static Error Forbidden(std::string_view module, std::string_view name) {
    return Malformed("pickle-code", "the pickle names '{}.{}', which is no part of a state dict; Python would import and may run it. Nothing was run; do not load this file elsewhere unless you trust its maker",
                     Escape(module, 80), Escape(name, 80));
  }

  Result<uint64_t> Number(size_t width) {
    if (pickle_.text.size() - at_ < width) return Short();
    uint64_t value = 0;
    std::memcpy(&value, pickle_.text.data() + at_, width);
    at_ += width;
    return value;
  }
  Result<std::string_view> Line() {
    const size_t end = pickle_.text.find('\n', at_);
    if (end == std::string_view::npos) return Short();
    const std::string_view line = pickle_.text.substr(at_, end - at_);
    at_ = end + 1;
    return line;
  }
  Result<Argument> ReadArgument(const Opcode& opcode) {
    Argument argument;
    const auto sized = [&](size_t width) -> Status {
      QC_ASSIGN(argument.size, Number(width));
      argument.number = at_;
      if (argument.size > pickle_.text.size() - at_) return Short();
      at_ += argument.size;
      return {};
    };
    switch (opcode.operand) {
      case Operand::kNone: break;
      case Operand::kByte: { QC_ASSIGN(argument.number, Number(1)); break; }
      case Operand::kTwo: { QC_ASSIGN(argument.number, Number(2)); break; }
      case Operand::kFour: { QC_ASSIGN(argument.number, Number(4)); break; }
      case Operand::kEight: { QC_ASSIGN(argument.number, Number(8)); break; }
      case Operand::kByteText: QC_TRY(sized(1)); break;
      case Operand::kFourText: QC_TRY(sized(4)); break;
      case Operand::kEightText: QC_TRY(sized(8)); break;
      case Operand::kLines: {
        QC_ASSIGN(argument.module, Line());
        QC_ASSIGN(argument.name, Line());
        break;
      }
    }
    return argument;
  }

  // Values above the last mark; nothing if there is none.
  std::optional<size_t> Mark() {
    if (marks_.empty()) return std::nullopt;
    const size_t mark = marks_.back();
    marks_.pop_back();
    return mark;
  }
  // Are there `count` values above the last mark?
  bool Has(size_t count) const { return stack_.size() - (marks_.empty() ? 0 : marks_.back()) >= count; }
  PickleValue Take() {
    const PickleValue value = stack_.back();
    stack_.pop_back();
    return value;
  }
  void Push(PickleKind kind, uint64_t number = 0, uint64_t size = 0) { stack_.push_back({kind, static_cast<uint32_t>(size), number}); }
  // The values from `first` on become one node.
  void Gather(PickleKind kind, size_t first) {
    const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(first);
    const size_t node = begin == stack_.end() && kind == PickleKind::kTuple ? 0 : pickle_.nodes.size();
    if (node != 0) pickle_.nodes.emplace_back(begin, stack_.end());
    stack_.erase(begin, stack_.end());
    Push(kind, node);
  }
  // Moves the values from `first` on into the node that lies below them.
  Status Extend(PickleKind kind, size_t first, std::string_view opcode) {
    if (first == 0 || stack_[first - 1].kind != kind || (!marks_.empty() && first <= marks_.back())) return Stack(opcode);
    if (kind == PickleKind::kDict && (stack_.size() - first) % 2 != 0) return Stack(opcode);
    std::vector<PickleValue>& node = pickle_.nodes[stack_[first - 1].number];
    node.insert(node.end(), stack_.begin() + static_cast<std::ptrdiff_t>(first), stack_.end());
    stack_.resize(first);
    return {};
  }

  Status Name(std::string_view module, std::string_view name) {
    const auto found = std::ranges::find_if(globals_, [&](const PickleGlobal& global) { return global.module == module && global.name == name; });
    if (found == globals_.end()) return Forbidden(module, name);
    if (found->use == PickleGlobal::Use::kUnread) {
      return Refused("torch-unread", "the pickle holds a '{}.{}', which is not read; save a state dict of plain tensors", module, name);
    }
    Push(PickleKind::kGlobal, static_cast<uint64_t>(found - globals_.begin()));
    return {};
  }

  Status Reduce() {
    if (!Has(2)) return Stack("REDUCE");
    const PickleValue arguments = Take();
    const PickleValue callee = Take();
    if (callee.kind != PickleKind::kGlobal || arguments.kind != PickleKind::kTuple) return Stack("REDUCE");
    const PickleGlobal& global = globals_[callee.number];
    const auto wrong = [&] { return Malformed("pickle-code", "the pickle calls '{}.{}' in a way that PyTorch does not", global.module, global.name); };
    std::vector<PickleValue> node;
    if (global.use == PickleGlobal::Use::kDict) {
      const std::span<const PickleValue> given = pickle_.Items(arguments);
      if (given.size() > 1 || (given.size() == 1 && given[0].kind != PickleKind::kList)) return wrong();
      for (const PickleValue& pair : given.empty() ? std::span<const PickleValue>() : pickle_.Items(given[0])) {
        const bool two = (pair.kind == PickleKind::kList || pair.kind == PickleKind::kTuple) && pickle_.Items(pair).size() == 2;
        if (!two) return wrong();
        node.insert(node.end(), pickle_.Items(pair).begin(), pickle_.Items(pair).end());
      }
      steps_ += node.size();
    } else if (global.use == PickleGlobal::Use::kCall) {
      const std::span<const PickleValue> given = pickle_.Items(arguments);
      node.reserve(given.size() + 1);
      node.push_back(callee);
      node.insert(node.end(), given.begin(), given.end());
      steps_ += node.size();
    } else {
      return wrong();
    }
    Push(global.use == PickleGlobal::Use::kDict ? PickleKind::kDict : PickleKind::kCall, pickle_.nodes.size());
    pickle_.nodes.push_back(std::move(node));
    return {};
  }

  Status Put(uint64_t index) {
    // Whoever writes a pickle numbers what it has met: never more than there are opcodes, but for a few.
    constexpr uint64_t kAlways = 65536;
    if (!Has(1)) return Stack("BINPUT");
    if (index > std::max<uint64_t>(steps_, kAlways)) return Malformed("torch-pickle", "the pickle remembers a value under the number {} after {} opcodes", index, steps_);
    if (index >= memo_.size()) memo_.resize(index + 1, PickleValue{PickleKind::kAbsent, 0, 0});
    memo_[index] = stack_.back();
    return {};
  }

  Status Get(uint64_t index) {
    if (index >= memo_.size() || memo_[index].kind == PickleKind::kAbsent) return Malformed("torch-pickle", "the pickle recalls the number {}, under which nothing was remembered", index);
    stack_.push_back(memo_[index]);
    return {};
  }

  Status Tuple(size_t count, std::string_view opcode) {
    if (!Has(count)) return Stack(opcode);
    Gather(PickleKind::kTuple, stack_.size() - count);
    return {};
  }

  void Long(const Argument& argument) {
    if (argument.size > 8) return Push(PickleKind::kLong, argument.number, argument.size);
    uint64_t value = 0;
    if (argument.size > 0) {
      std::memcpy(&value, pickle_.text.data() + argument.number, argument.size);
      const auto top = static_cast<unsigned>(64 - 8 * argument.size);
      value = static_cast<uint64_t>(static_cast<int64_t>(value << top) >> top);
    }
    Push(PickleKind::kInt, value);
  }

  Status Step(const Opcode& opcode, const Argument& argument) {
    switch (opcode.action) {
      case Action::kProto:
        return argument.number <= 5 ? Status() : Malformed("torch-pickle", "the pickle is of protocol {}, expected at most 5", argument.number);
      case Action::kFrame: return {};
      case Action::kMark: marks_.push_back(stack_.size()); return marks_.size() > kMaxStack ? Malformed("torch-pickle", "the pickle is deeper than a state dict can be") : Status();
      case Action::kPop:
        if (Has(1)) stack_.pop_back();
        else if (!Mark().has_value()) return Stack(opcode.name);
        return {};
      case Action::kPopMark:
      case Action::kTuple:
      case Action::kAppends:
      case Action::kSetItems: {
        const std::optional<size_t> mark = Mark();
        if (!mark.has_value()) return Stack(opcode.name);
        if (opcode.action == Action::kAppends) return Extend(PickleKind::kList, *mark, opcode.name);
        if (opcode.action == Action::kSetItems) return Extend(PickleKind::kDict, *mark, opcode.name);
        if (opcode.action == Action::kTuple) Gather(PickleKind::kTuple, *mark);
        else stack_.resize(*mark);
        return {};
      }
      case Action::kDup:
        if (!Has(1)) return Stack(opcode.name);
        stack_.push_back(stack_.back());
        return {};
      case Action::kGlobal: return Name(argument.module, argument.name);
      case Action::kStackGlobal: {
        if (!Has(2)) return Stack(opcode.name);
        const PickleValue name = Take();
        const PickleValue module = Take();
        if (name.kind != PickleKind::kText || module.kind != PickleKind::kText) return Stack(opcode.name);
        return Name(pickle_.Text(module), pickle_.Text(name));
      }
      case Action::kReduce: return Reduce();
      case Action::kBuild: {
        // The state of an ordered dictionary is of no use; nothing else may have one.
        if (!Has(2)) return Stack(opcode.name);
        stack_.pop_back();
        return stack_.back().kind == PickleKind::kDict ? Status() : Malformed("pickle-code", "the pickle sets attributes of something that is no dictionary, which no state dict needs");
      }
      case Action::kPersistent: {
        if (!Has(1)) return Stack(opcode.name);
        Gather(PickleKind::kPersistent, stack_.size() - 1);
        pickle_.persistent.push_back(stack_.back());
        return {};
      }
      case Action::kPut: return Put(argument.number);
      case Action::kMemoize: return Put(memo_.size());
      case Action::kGet: return Get(argument.number);
      case Action::kNone: Push(PickleKind::kNone); return {};
      case Action::kTrue: Push(PickleKind::kBool, 1); return {};
      case Action::kFalse: Push(PickleKind::kBool, 0); return {};
      case Action::kInt: Push(PickleKind::kInt, argument.number); return {};
      case Action::kSigned: Push(PickleKind::kInt, static_cast<uint64_t>(int64_t{static_cast<int32_t>(argument.number)})); return {};
      case Action::kLong: Long(argument); return {};
      case Action::kFloat: Push(PickleKind::kFloat, __builtin_bswap64(argument.number)); return {};
      case Action::kText: Push(PickleKind::kText, argument.number, argument.size); return {};
      case Action::kBytes: Push(PickleKind::kBytes, argument.number, argument.size); return {};
      case Action::kEmptyTuple: Push(PickleKind::kTuple, 0); return {};
      case Action::kTuple1: return Tuple(1, opcode.name);
      case Action::kTuple2: return Tuple(2, opcode.name);
      case Action::kTuple3: return Tuple(3, opcode.name);
      case Action::kEmptyList: Gather(PickleKind::kList, stack_.size()); return {};
      case Action::kEmptyDict: Gather(PickleKind::kDict, stack_.size()); return {};
      case Action::kAppend: return Has(2) ? Extend(PickleKind::kList, stack_.size() - 1, opcode.name) : Stack(opcode.name);
      case Action::kSetItem: return Has(3) ? Extend(PickleKind::kDict, stack_.size() - 2, opcode.name) : Stack(opcode.name);
      case Action::kCalls:
        if (opcode.operand == Operand::kLines) return Forbidden(argument.module, argument.name);
        return Malformed("pickle-code", "the pickle uses the opcode {}, which makes Python call what it names; no state dict needs it, and nothing was run", opcode.name);
      case Action::kStop:
      case Action::kUnread: break;
    }
    return Internal("opcode {}", opcode.name);
  }

  std::span<const PickleGlobal> globals_;
  Pickle pickle_;
  size_t at_ = 0;
  size_t steps_ = 0;
  std::vector<PickleValue> stack_;
  std::vector<size_t> marks_;
  std::vector<PickleValue> memo_;
};

}  // namespace

Result<Pickle> ReadPickle(ByteView bytes, std::span<const PickleGlobal> globals) { return Machine(bytes, globals).Run(); }

}  // namespace q2c
