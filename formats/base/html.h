// Text as it may stand in HTML, between tags and in a quoted attribute.
#pragma once

#include <string>
#include <string_view>

namespace q2c {

std::string HtmlText(std::string_view text);
// The same of a text from a file, which nobody has made safe to print yet (Escape).
std::string HtmlName(std::string_view name, size_t limit = 200);

}  // namespace q2c
