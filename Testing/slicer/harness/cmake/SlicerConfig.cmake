# What `find_package(Slicer)` gives an extension, as far as a scripted module needs it: the two macros of its
# CMakeLists.txt, which here install what they are told to, and refuse what Slicer's would fail on.

set(Slicer_FOUND TRUE)
set(Slicer_VERSION "5.12.4")
set(Slicer_USE_FILE "${CMAKE_CURRENT_LIST_DIR}/UseSlicer.cmake")
set(Slicer_EXTENSION_GENERATE_CONFIG "${CMAKE_CURRENT_LIST_DIR}/Nothing.cmake")
set(Slicer_EXTENSION_CPACK "${CMAKE_CURRENT_LIST_DIR}/Nothing.cmake")
set(Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR "lib/Slicer-5.12/qt-scripted-modules")
