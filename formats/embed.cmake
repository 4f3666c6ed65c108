# Writes the JSON data files into one C++ source: cmake -DOUT=... -DROOT=... -P embed.cmake
file(GLOB files RELATIVE ${ROOT} ${ROOT}/architectures/*.json ${ROOT}/targets/*.json ${ROOT}/loaders/*.json)
list(SORT files)
set(rows "")
foreach(file ${files})
  file(READ ${ROOT}/${file} text)
  get_filename_component(folder ${file} DIRECTORY)
  get_filename_component(name ${file} NAME)
  string(REGEX REPLACE "\\.json$" "" name "${name}")
  string(APPEND rows "    {\"${folder}\", \"${name}\", R\"json(${text})json\"},\n")
endforeach()
file(WRITE ${OUT} "// Made by embed.cmake from architectures/, targets/ and loaders/.
#include \"formats/embedded.h\"

namespace q2c {
namespace {
constexpr EmbeddedFile kFiles[] = {
${rows}};
}  // namespace
std::span<const EmbeddedFile> EmbeddedFiles() { return kFiles; }
}  // namespace q2c
")
