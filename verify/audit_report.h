// What an audit prints: for people, for programs (audit.schema.json), for code scanners
// (SARIF 2.1.0), for a browser (one HTML file without scripts or outside resources).
#pragma once

#include <string>
#include <vector>

#include "verify/audit.h"

namespace q2c {

// The document of one audit; several go into one under "subjects".
Json AuditJson(const AuditReport& report);
Json AuditJson(const std::vector<AuditReport>& reports);
std::string AuditText(const AuditReport& report);
Json AuditSarif(const std::vector<AuditReport>& reports);
std::string AuditHtml(const std::vector<AuditReport>& reports);

// "clean", "notes only", "2 errors, 1 warning": the verdict in a few words.
std::string VerdictText(const AuditReport& report);

}  // namespace q2c
