// Short ways to say what a Status or Result must be.
#pragma once

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "formats/base/status.h"

namespace q2c {
// So that a failed expectation prints a name and not bytes.
inline void PrintTo(Code code, std::ostream* out) { *out << "code " << static_cast<int>(code); }
}  // namespace q2c

namespace q2c::test {

// The value; a test that gets none ends here, failed, with the error's text.
template <typename T>
T Must(Result<T> result) {
  if (!result.ok()) throw std::runtime_error("unexpected error: " + result.error().Text());
  return std::move(result).value();
}
inline void Must(const Status& status) {
  if (!status.ok()) throw std::runtime_error("unexpected error: " + status.error().Text());
}

// Must have failed with this code and finding, with a message that mentions all these.
template <typename R>
void ExpectError(const R& result, Code code, std::string_view id, const std::vector<std::string>& mentions = {}) {
  if (result.ok()) {
    ADD_FAILURE() << "no error, expected [" << id << "]";
    return;
  }
  EXPECT_EQ(result.error().code, code) << result.error().Text();
  EXPECT_EQ(result.error().id, id) << result.error().Text();
  for (const std::string& mention : mentions) {
    EXPECT_NE(result.error().message.find(mention), std::string::npos) << "'" << mention << "' is not in: " << result.error().Text();
  }
}

}  // namespace q2c::test
