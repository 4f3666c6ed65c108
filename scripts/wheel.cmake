# What the wheel holds beside the Python package: the programs, and the licences and versions of what is linked into them.
install(TARGETS qwen2-convert qwen2-audit qwen2-zoo DESTINATION ${SKBUILD_SCRIPTS_DIR})
if(Q2C_STATIC)
  set(licences ${SKBUILD_METADATA_DIR}/licenses/linked)
  string(REGEX MATCH "^[0-9]+" gcc ${CMAKE_CXX_COMPILER_VERSION})
  set(packages libc6-dev libstdc++-${gcc}-dev libboost1.74-dev libssl-dev libzstd-dev libxxhash-dev nlohmann-json3-dev libfmt-dev libhwy-dev)
  foreach(package ${packages})
    install(FILES /usr/share/doc/${package}/copyright DESTINATION ${licences} RENAME ${package}.txt)
  endforeach()
  foreach(text Apache-2.0 GPL-3 LGPL-2.1)  # to which those refer
    install(FILES /usr/share/common-licenses/${text} DESTINATION ${licences} RENAME ${text}.txt)
  endforeach()
  execute_process(COMMAND dpkg-query -W -f "\${Package} \${Version} (source: \${source:Package} \${source:Version})\n" ${packages}
                  OUTPUT_FILE ${CMAKE_BINARY_DIR}/versions.txt COMMAND_ERROR_IS_FATAL ANY)
  install(FILES ${CMAKE_BINARY_DIR}/versions.txt DESTINATION ${licences})
endif()
