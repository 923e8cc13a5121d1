// What this library was built from and for. hive_kernels/native_file.py reads it in the file, before the file is loaded.
#include <torch/headeronly/version.h>

#ifdef HIVE_EMULATED
#define HIVE_KEY "CPU"
#else
#define HIVE_KEY "CUDA"
#endif

// CMakeLists.txt defines HIVE_SOURCES and HIVE_ARCHITECTURES.
extern "C" const char hive_build_record[] =
    "hive_kernels was built as {\"key\": \"" HIVE_KEY "\", \"sources\": \"" HIVE_SOURCES
    "\", \"architectures\": \"" HIVE_ARCHITECTURES "\", \"torch\": \"" TORCH_VERSION "\"}";
