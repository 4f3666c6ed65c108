#include "formats/base/html.h"

#include "formats/base/text.h"

namespace q2c {

std::string HtmlText(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      case '\'': out += "&#39;"; break;
      default: out += c;
    }
  }
  return out;
}

std::string HtmlName(std::string_view name, size_t limit) { return HtmlText(Escape(name, limit)); }

}  // namespace q2c
