// libtiff's archive wants JBIG-KIT, whose licence (GPL) does not go into this binary. These stand in for it: JBIG
// compressed TIFFs fail to decode, all others do not notice.
#include <cstddef>

extern "C" {

void jbg_dec_init(void*) {}
int jbg_dec_in(void*, unsigned char*, size_t, size_t*) { return 1 << 4; }  // neither "ok" nor "end of image"
unsigned char* jbg_dec_getimage(const void*, int) { return nullptr; }
long jbg_dec_getsize(const void*) { return 0; }
void jbg_dec_free(void*) {}
void jbg_newlen(unsigned char*, size_t) {}
const char* jbg_strerror(int) { return "JBIG is not supported"; }
void jbg_enc_init(void*, unsigned long, unsigned long, int, unsigned char**, void (*)(unsigned char*, size_t, void*),
                  void*) {}
void jbg_enc_out(void*) {}
void jbg_enc_free(void*) {}

}  // extern "C"
