// The plots of the HTML report: inline SVG, coloured by the page's style (classes), readable in
// print. Their size grows with the number of layers, not of tensors.
#pragma once

#include <string>

#include "verify/audit.h"

namespace q2c {

// Text as it may stand in HTML, and the same of a name that nobody has made safe to print yet.
std::string HtmlText(std::string_view text);
std::string HtmlName(std::string_view name);

std::string SizePlot(const AuditReport& report);       // bytes by part
std::string HistogramPlot(const AuditReport& report);  // shares of the codes, a row a layer; empty without --read-data
std::string ZeroPlot(const AuditReport& report);       // mean of (code - zero field), a row a layer; empty where nothing was sampled
std::string ScalePlot(const AuditReport& report);      // smallest to largest scale, a row a layer; empty without --read-data

}  // namespace q2c
