# The Python extension, when VIDERE_PYTHON is on: all of Videre in one module, which is the command too.
# `pip wheel .` sets this up; with VIDERE_PREBUILT it links the libraries of that build folder.
find_package(Python 3.11 REQUIRED COMPONENTS Interpreter Development.Module
  OPTIONAL_COMPONENTS Development.SABIModule)
if(NOT nanobind_ROOT)
  execute_process(COMMAND ${Python_EXECUTABLE} -m nanobind --cmake_dir
    OUTPUT_STRIP_TRAILING_WHITESPACE OUTPUT_VARIABLE nanobind_ROOT)
endif()
find_package(nanobind CONFIG REQUIRED)

nanobind_add_module(_videre NB_STATIC STABLE_ABI
  src/python/module.cc src/python/options.cc src/python/reader.cc src/shared/stderr.c)
target_link_libraries(_videre PRIVATE videre_cli)
target_link_options(_videre PRIVATE -static-libstdc++ -static-libgcc -Wl,-s
  -Wl,--version-script=${CMAKE_SOURCE_DIR}/src/shared/python.map)
install(TARGETS _videre LIBRARY DESTINATION videre COMPONENT python)
