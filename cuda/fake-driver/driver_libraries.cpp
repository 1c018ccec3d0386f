// The functions of cuBLAS and cuRAND that candle calls to open a GPU. The program does not use these libraries
// otherwise.
#define API extern "C" __attribute__((visibility("default")))

static int instance;

API int cublasCreate_v2(void** handle) { return *handle = &instance, 0; }
API int cublasDestroy_v2(void*) { return 0; }
API int cublasSetStream_v2(void*, void*) { return 0; }

API int curandCreateGenerator(void** generator, int) { return *generator = &instance, 0; }
API int curandDestroyGenerator(void*) { return 0; }
API int curandSetStream(void*, void*) { return 0; }
API int curandSetPseudoRandomGeneratorSeed(void*, unsigned long long) { return 0; }
API int curandSetGeneratorOffset(void*, unsigned long long) { return 0; }
