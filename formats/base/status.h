// How errors travel: a function that can fail returns Status or Result<T>.
//
//   Result<Header> ReadHeader(...);
//   QC_ASSIGN(const Header header, ReadHeader(...));   // returns the error upwards
//   QC_TRY(file.Sync());
//
// Nothing in this project aborts, prints or throws on bad input. An Error has the
// exit code the process will end with, a message (subject, found, expected, next
// step; no capital, no full stop) and a stable finding id, printed in brackets.
#pragma once

#include <fmt/format.h>

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace q2c {

// The exit codes of every tool of the chain. Chosen by what the caller can do.
enum class Code : int {
  kOk = 0,            // done and verified
  kFindings = 1,      // findings, or a mismatch
  kUsage = 2,         // the command line is wrong
  kNotRun = 3,        // a check that was asked for could not be run
  kMalformed = 65,    // the input is broken
  kRefused = 69,      // the input is sound, but this cannot be done with it
  kInternal = 70,     // our bug
  kIo = 74,           // reading or writing failed
  kTryAgain = 75,     // somebody else holds the lock, or the input changed meanwhile
  kNoSpace = 76,      // disk or quota full
  kPermission = 77,   // not allowed
  kInterrupted = 130,
  kTerminated = 143,
};

struct [[nodiscard]] Error {
  Code code = Code::kInternal;
  std::string id;       // e.g. "quant-shape"
  std::string message;

  // Puts `where` and a colon in front of the message.
  Error Within(std::string_view where) && {
    message = fmt::format("{}: {}", where, message);
    return std::move(*this);
  }
  // The message with the finding id at its end, as it is printed.
  std::string Text() const { return id.empty() ? message : fmt::format("{} [{}]", message, id); }
};

template <typename... Args>
Error MakeError(Code code, std::string_view id, fmt::format_string<Args...> format, Args&&... args) {
  return Error{code, std::string(id), fmt::format(format, std::forward<Args>(args)...)};
}
template <typename... Args>
Error Malformed(std::string_view id, fmt::format_string<Args...> format, Args&&... args) {
  return MakeError(Code::kMalformed, id, format, std::forward<Args>(args)...);
}
template <typename... Args>
Error Refused(std::string_view id, fmt::format_string<Args...> format, Args&&... args) {
  return MakeError(Code::kRefused, id, format, std::forward<Args>(args)...);
}
template <typename... Args>
Error Usage(std::string_view id, fmt::format_string<Args...> format, Args&&... args) {
  return MakeError(Code::kUsage, id, format, std::forward<Args>(args)...);
}
template <typename... Args>
Error Internal(fmt::format_string<Args...> format, Args&&... args) {
  return MakeError(Code::kInternal, "internal", format, std::forward<Args>(args)...);
}

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Error error) : error_(std::move(error)) {}  // NOLINT(google-explicit-constructor)

  bool ok() const { return !error_.has_value(); }
  const Error& error() const { return *error_; }
  Error TakeError() && { return std::move(*error_); }

 private:
  std::optional<Error> error_;
};

// What is wrong with an input, where a reader goes on behind each of them.
using Defects = std::vector<Error>;
inline constexpr size_t kMaxDefects = 10'000;  // further ones are not kept: a hostile file must not fill the memory

// For readers that can do both: keeps the error among the defects, so that the caller goes on,
// or hands it back where none are collected. What says nothing about the input (our bug, the
// user's command, an interruption) is always handed back.
inline Status KeepOrFail(Defects* defects, Error error) {
  const bool of_input = error.code == Code::kMalformed || error.code == Code::kRefused || error.code == Code::kIo || error.code == Code::kPermission;
  if (defects == nullptr || !of_input) return error;
  if (defects->size() < kMaxDefects) defects->push_back(std::move(error));
  return {};
}
inline Status KeepOrFail(Defects* defects, Status status) {
  return status.ok() ? std::move(status) : KeepOrFail(defects, std::move(status).TakeError());
}

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}  // NOLINT(google-explicit-constructor)
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT(google-explicit-constructor)

  bool ok() const { return state_.index() == 0; }
  T& value() & { return std::get<0>(state_); }
  const T& value() const& { return std::get<0>(state_); }
  T&& value() && { return std::get<0>(std::move(state_)); }
  const Error& error() const { return std::get<1>(state_); }
  Error TakeError() && { return std::get<1>(std::move(state_)); }

 private:
  std::variant<T, Error> state_;
};

}  // namespace q2c

#define QC_JOIN2(a, b) a##b
#define QC_JOIN(a, b) QC_JOIN2(a, b)
// Returns from the calling function with the error, if there is one.
#define QC_TRY(expression)                                                     \
  do {                                                                         \
    if (auto QC_JOIN(qc_status_, __LINE__) = (expression);                     \
        !QC_JOIN(qc_status_, __LINE__).ok()) {                                 \
      return std::move(QC_JOIN(qc_status_, __LINE__)).TakeError();             \
    }                                                                          \
  } while (false)
// `declaration` gets the value, or the calling function returns the error.
#define QC_ASSIGN(declaration, expression)                                     \
  auto QC_JOIN(qc_result_, __LINE__) = (expression);                           \
  if (!QC_JOIN(qc_result_, __LINE__).ok()) {                                   \
    return std::move(QC_JOIN(qc_result_, __LINE__)).TakeError();               \
  }                                                                            \
  declaration = std::move(QC_JOIN(qc_result_, __LINE__)).value()
