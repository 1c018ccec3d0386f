// As much of cuBLAS and cuRAND as candle needs to open a card: nothing is computed with them.
#define API extern "C" __attribute__((visibility("default")))

static int it;

API int cublasCreate_v2(void** handle) { return *handle = &it, 0; }
API int cublasDestroy_v2(void*) { return 0; }
API int cublasSetStream_v2(void*, void*) { return 0; }

API int curandCreateGenerator(void** generator, int) { return *generator = &it, 0; }
API int curandDestroyGenerator(void*) { return 0; }
API int curandSetStream(void*, void*) { return 0; }
API int curandSetPseudoRandomGeneratorSeed(void*, unsigned long long) { return 0; }
API int curandSetGeneratorOffset(void*, unsigned long long) { return 0; }
