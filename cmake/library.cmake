# libvidere.so and libvidere.a with include/videre, for find_package(videre): see docs/cpp.md.
set(VIDERE_LIBRARY_LAYERS engine prompt model media text backend weights tensor base)

add_library(videre_shared SHARED src/shared/stderr.c)
set_target_properties(videre_shared PROPERTIES OUTPUT_NAME videre EXPORT_NAME videre LINKER_LANGUAGE CXX
  VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
target_link_libraries(videre_shared PRIVATE videre_engine)
# The public functions, by the names that the linker knows: nothing else asks the archives for them.
target_link_options(videre_shared PRIVATE -Wl,-u,_ZN6videre7versionEv
  -Wl,-u,_ZN6videre8read_allERNS_10GenerationE -Wl,-u,_ZN6videre12error_statusENS_9ErrorCodeE
  -static-libstdc++ -static-libgcc -Wl,--version-script=${CMAKE_SOURCE_DIR}/src/shared/library.map -Wl,--gc-sections -Wl,--no-undefined)
target_compile_features(videre_shared INTERFACE cxx_std_20)
target_include_directories(videre_shared INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)

# One archive of all layers; the distribution's archives that it needs are named in the package file.
set(merge "CREATE libvidere.a\n")
set(archives)
foreach(layer ${VIDERE_LIBRARY_LAYERS})
  string(APPEND merge "ADDLIB $<TARGET_FILE:videre_${layer}>\n")
  list(APPEND archives videre_${layer})
endforeach()
file(GENERATE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/libvidere.mri CONTENT "${merge}SAVE\nEND\n")
add_custom_command(OUTPUT libvidere.a
  COMMAND ${CMAKE_COMMAND} -E rm -f libvidere.a
  COMMAND ${CMAKE_AR} -M < libvidere.mri
  DEPENDS ${archives} VERBATIM)
add_custom_target(videre_static ALL DEPENDS libvidere.a)

set(VIDERE_STATIC_LIBRARIES)
foreach(package videre_pcre2 videre_xxhash videre_codecs)
  get_target_property(libraries ${package} INTERFACE_LINK_LIBRARIES)
  foreach(library ${libraries})
    get_filename_component(library ${library} NAME_WE)
    string(REGEX REPLACE "^lib" "" library ${library})
    list(APPEND VIDERE_STATIC_LIBRARIES ${library})
  endforeach()
endforeach()
list(APPEND VIDERE_STATIC_LIBRARIES boost_json boost_container ssl crypto dl)

include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/videre)
configure_package_config_file(cmake/videre-config.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/videre-config.cmake
  INSTALL_DESTINATION ${package_dir} PATH_VARS CMAKE_INSTALL_INCLUDEDIR CMAKE_INSTALL_LIBDIR)
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/videre-config-version.cmake
  COMPATIBILITY SameMinorVersion)
install(TARGETS videre_shared EXPORT videre-targets)
install(EXPORT videre-targets NAMESPACE videre:: DESTINATION ${package_dir})
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/videre-config.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/videre-config-version.cmake DESTINATION ${package_dir})
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/libvidere.a DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/videre DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
