# What is installed, and the Debian package made from it. The pages and completions are printed by the programs themselves
# (--help=man and so on), those about formats are made from the descriptions beside the code (lowdown).
include(GNUInstallDirs)
set(programs qwen2-convert qwen2-audit qwen2-zoo)
set(manual ${CMAKE_BINARY_DIR}/manual)
set(pages)
install(TARGETS ${programs} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
foreach(program ${programs})
  foreach(form man bash zsh fish)
    set(printed ${manual}/${program}.${form})
    add_custom_command(OUTPUT ${printed} COMMAND ${CMAKE_COMMAND} -E make_directory ${manual}
                       COMMAND ${program} --help=${form} > ${printed} DEPENDS ${program} VERBATIM)
    list(APPEND pages ${printed})
  endforeach()
  add_custom_command(OUTPUT ${manual}/${program}.1.gz COMMAND gzip -9nc ${manual}/${program}.man > ${manual}/${program}.1.gz DEPENDS ${manual}/${program}.man VERBATIM)
  list(APPEND pages ${manual}/${program}.1.gz)
  install(FILES ${manual}/${program}.1.gz DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
  install(FILES ${manual}/${program}.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME ${program})
  install(FILES ${manual}/${program}.zsh DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/vendor-completions RENAME _${program})
  install(FILES ${manual}/${program}.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d RENAME ${program}.fish)
endforeach()
find_program(LOWDOWN lowdown)
if(LOWDOWN)
  # Tables: the last column takes the room that is left, and no cell is stretched to both edges.
  set(tables [[s/^tab(|) expand/tab(|)/;/^[lrc ]*l[.]$/s/l[.]$/lx./;s/^[.]TS/.na\n&/]])
  foreach(page "qwen2-convert-report verify/report.md what a conversion found, did and proved"
               "qwen2-convert-manifest formats/manifest.md what lies beside a converted checkpoint"
               "qwen2-convert-undo convert/undo.md the record from which a conversion is undone"
               "qwen2-zoo-plan convert/zoo.md plans, leases and journals of many conversions")
    separate_arguments(page)
    list(POP_FRONT page name source)
    list(JOIN page " " about)
    set(heading ${manual}/${name}.md)  # for whatis
    file(WRITE ${heading} "# NAME\n\n${name} - ${about}\n\n")
    add_custom_command(OUTPUT ${manual}/${name}.5.gz COMMAND ${CMAKE_COMMAND} -E make_directory ${manual}
                       COMMAND sh -c "cat '${heading}' '${CMAKE_SOURCE_DIR}/${source}' | '${LOWDOWN}' -s -Tman -M title=${name} -M section=5 | sed '${tables}' | gzip -9nc > '${manual}/${name}.5.gz'"
                       DEPENDS ${CMAKE_SOURCE_DIR}/${source} ${heading} VERBATIM)
    list(APPEND pages ${manual}/${name}.5.gz)
    install(FILES ${manual}/${name}.5.gz DESTINATION ${CMAKE_INSTALL_MANDIR}/man5)
  endforeach()
endif()
set(contact "qwen2-convert developers <qwen2-convert@example.org>")  # reserved for examples; one with a mailbox when there is one
string(TIMESTAMP year "%Y" UTC)
string(TIMESTAMP date "%a, %d %b %Y 00:00:00 +0000" UTC)
file(WRITE ${manual}/changelog "qwen2-convert (${PROJECT_VERSION}) unstable; urgency=medium\n\n  * See CHANGELOG.md.\n\n -- ${contact}  ${date}\n")
add_custom_command(OUTPUT ${manual}/changelog.gz COMMAND gzip -9nc ${manual}/changelog > ${manual}/changelog.gz DEPENDS ${manual}/changelog VERBATIM)
file(READ ${CMAKE_SOURCE_DIR}/THIRD_PARTY_NOTICES.md notices)
file(WRITE ${manual}/copyright "qwen2-convert\nCopyright ${year} the qwen2-convert developers\nLicense: Apache-2.0\n The text of the licence is in /usr/share/common-licenses/Apache-2.0.\n\n${notices}")
install(FILES ${manual}/copyright ${manual}/changelog.gz DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/qwen2-convert)
add_custom_target(manual ALL DEPENDS ${pages} ${manual}/changelog.gz)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME qwen2-convert)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "rewrites quantised Qwen2 checkpoints and proves the result")
set(CPACK_PACKAGE_DESCRIPTION "Rewrites GPTQ, AWQ, compressed-tensors, MLX and GGUF checkpoints of the\nQwen2 family from one layout into another without going through floats,\ncompares every weight, runs a forward pass over both sides, and audits whole\nmodel zoos.")
set(CPACK_PACKAGE_CONTACT "${contact}")
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_OUTPUT_FILE_PREFIX ${CMAKE_SOURCE_DIR}/dist)
include(CPack)
