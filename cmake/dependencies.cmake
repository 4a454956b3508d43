# Everything Videre stands on, as static libraries or headers, from the distribution's packages.
set(CMAKE_FIND_LIBRARY_SUFFIXES .a .so)
set(Boost_USE_STATIC_LIBS ON)
set(OPENSSL_USE_STATIC_LIBS ON)

find_package(Threads REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(Boost 1.81 REQUIRED COMPONENTS json url)
find_package(CLI11 2.1 CONFIG REQUIRED)
find_package(fmt 9 CONFIG REQUIRED)
find_package(spdlog 1.10 CONFIG REQUIRED)
# By their headers alone: the packages have shared libraries only. base/fmt_library.cc is {fmt}'s archive.
add_library(videre_fmt INTERFACE)
target_include_directories(videre_fmt INTERFACE
  $<TARGET_PROPERTY:fmt::fmt-header-only,INTERFACE_INCLUDE_DIRECTORIES>
  $<TARGET_PROPERTY:spdlog::spdlog_header_only,INTERFACE_INCLUDE_DIRECTORIES>)
target_compile_definitions(videre_fmt INTERFACE SPDLOG_FMT_EXTERNAL)
find_package(ZLIB REQUIRED)
find_package(PkgConfig REQUIRED)

# pkg-config names the headers; the archives are found by hand, since the .pc files name shared ones.
function(videre_static_package target header)
  add_library(${target} INTERFACE IMPORTED)
  find_path(${target}_INCLUDE ${header} REQUIRED)
  target_include_directories(${target} INTERFACE ${${target}_INCLUDE})
  foreach(name ${ARGN})
    find_library(LIB_${name} ${name} REQUIRED)
    target_link_libraries(${target} INTERFACE ${LIB_${name}})
  endforeach()
endfunction()

videre_static_package(videre_pcre2 pcre2.h pcre2-8)
videre_static_package(videre_xxhash xxhash.h xxhash)
# Order matters: each archive before those it needs.
videre_static_package(videre_codecs turbojpeg.h
  turbojpeg tiff jpeg gif webpdemux webp png16 zstd lzma Lerc deflate z)
target_link_libraries(videre_codecs INTERFACE m)

if(VIDERE_FFMPEG)
  # Headers only: the libraries are opened at run time (GPL builds are never linked).
  pkg_check_modules(FFMPEG libavformat libavcodec libavutil libswscale)
  if(NOT FFMPEG_FOUND)
    message(WARNING "FFmpeg's headers are not installed: only Y4M, MJPEG-AVI, GIF and WebP clips will be read")
  endif()
endif()

if(VIDERE_TESTS)
  find_package(GTest 1.12 CONFIG)
  find_package(Python3 COMPONENTS Interpreter)
  if(NOT GTest_FOUND)
    message(STATUS "GoogleTest is not installed: tests are left out (scripts/test installs it)")
    set(VIDERE_TESTS OFF)
  endif()
endif()
if(VIDERE_BENCH)
  find_package(benchmark CONFIG)
endif()
