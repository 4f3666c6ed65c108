# Q2C_STATIC: nothing is needed at run time but the kernel. Debian has fmt and Highway as shared libraries only; what is used of them is
# built from its source packages, which scripts/wheel.sh unpacks, with the headers that are installed. So our own objects are the same as
# in any other build, and a compiler cache has them.
set(Q2C_SOURCES "" CACHE PATH "Folder of the unpacked source packages fmtlib and highway")
set(CMAKE_FIND_LIBRARY_SUFFIXES .a)
set(Boost_USE_STATIC_LIBS ON)
set(OPENSSL_USE_STATIC_LIBS ON)

add_library(fmt STATIC ${Q2C_SOURCES}/fmtlib/src/format.cc)
add_library(hwy STATIC ${Q2C_SOURCES}/highway/hwy/targets.cc ${Q2C_SOURCES}/highway/hwy/per_target.cc)
add_library(fmt::fmt ALIAS fmt)
add_library(hwy::hwy ALIAS hwy)
target_include_directories(hwy PRIVATE ${Q2C_SOURCES}/highway)  # it includes its own sources
target_compile_definitions(fmt INTERFACE FMT_SHARED)
target_compile_definitions(hwy PUBLIC HWY_SHARED_DEFINE)
