// WebP through libwebp: lossy, lossless, with alpha, and animations composed by its own decoder.
#include <webp/decode.h>
#include <webp/demux.h>

#include <memory>

#include "media/exif.h"
#include "media/image_codecs.h"

namespace videre::internal {
namespace {

struct DemuxDeleter {
  void operator()(WebPDemuxer* demux) const { WebPDemuxDelete(demux); }
};
using Demux = std::unique_ptr<WebPDemuxer, DemuxDeleter>;

struct AnimDeleter {
  void operator()(WebPAnimDecoder* decoder) const { WebPAnimDecoderDelete(decoder); }
};
using AnimDecoder = std::unique_ptr<WebPAnimDecoder, AnimDeleter>;

Error webp_error(VP8StatusCode status) {
  if (status == VP8_STATUS_NOT_ENOUGH_DATA || status == VP8_STATUS_SUSPENDED) {
    return truncated_image("WebP");
  }
  return corrupt_image("WebP");
}

std::span<const uint8_t> chunk(const WebPDemuxer* demux, const char* name) {
  WebPChunkIterator iterator{};
  std::span<const uint8_t> data;
  if (WebPDemuxGetChunk(demux, name, 1, &iterator)) {
    data = {iterator.chunk.bytes, iterator.chunk.size};
  }
  WebPDemuxReleaseChunkIterator(&iterator);
  return data;
}

int stored_orientation(std::span<const uint8_t> bytes) {
  const WebPData data{bytes.data(), bytes.size()};
  const Demux demux(WebPDemux(&data));
  if (!demux) return 1;
  const auto exif = exif_orientation(chunk(demux.get(), "EXIF"));
  return exif ? *exif : xmp_orientation(chunk(demux.get(), "XMP ")).value_or(1);
}

Result<WebPBitstreamFeatures> read_features(std::span<const uint8_t> bytes,
                                            const ImageOptions& options) {
  WebPBitstreamFeatures features;
  const auto status = WebPGetFeatures(bytes.data(), bytes.size(), &features);
  if (status != VP8_STATUS_OK) return webp_error(status);
  VIDERE_RETURN_IF_ERROR(check_image_size("WebP", features.width, features.height, options));
  return features;
}

}  // namespace

Result<AnimationInfo> read_webp_info(std::span<const uint8_t> bytes, const ImageOptions& options) {
  VIDERE_ASSIGN_OR_RETURN(const auto features, read_features(bytes, options));
  const WebPData data{bytes.data(), bytes.size()};
  const Demux demux(WebPDemux(&data));
  if (!demux) return truncated_image("WebP");
  AnimationInfo info;
  info.width = features.width;
  info.height = features.height;
  WebPIterator frame{};
  if (WebPDemuxGetFrame(demux.get(), 1, &frame)) {
    do {
      info.durations_ms.push_back(frame.duration);
    } while (WebPDemuxNextFrame(&frame));
  }
  WebPDemuxReleaseIterator(&frame);
  info.num_frames = static_cast<int64_t>(info.durations_ms.size());
  if (info.num_frames == 0) return corrupt_image("WebP");
  return info;
}

Status decode_webp_frames(std::span<const uint8_t> bytes, const ImageOptions& options,
                          const FrameVisitor& visit) {
  VIDERE_ASSIGN_OR_RETURN(const auto features, read_features(bytes, options));
  const WebPData data{bytes.data(), bytes.size()};
  WebPAnimDecoderOptions decoder_options;
  if (!WebPAnimDecoderOptionsInit(&decoder_options)) return internal_error("libwebp's ABI differs");
  decoder_options.color_mode = MODE_RGBA;
  const AnimDecoder decoder(WebPAnimDecoderNew(&data, &decoder_options));
  if (!decoder) return corrupt_image("WebP");
  Image frame = make_image(features.width, features.height);
  for (int64_t i = 0; WebPAnimDecoderHasMoreFrames(decoder.get()); ++i) {
    uint8_t* rgba = nullptr;  // the decoder's canvas
    int end_ms = 0;
    if (!WebPAnimDecoderGetNext(decoder.get(), &rgba, &end_ms)) return corrupt_image("WebP");
    for (int y = 0; y < frame.height; ++y) {
      const int64_t row = static_cast<int64_t>(y) * frame.width;
      composite_row(rgba + 4 * row, frame.width, options.rgba_background_color,
                    frame.rgb.data() + 3 * row);
    }
    if (!visit(i, frame)) break;
  }
  return {};
}

Result<Picture> decode_webp(std::span<const uint8_t> bytes, const ImageOptions& options) {
  VIDERE_ASSIGN_OR_RETURN(const auto features, read_features(bytes, options));
  Picture picture;
  picture.orientation = stored_orientation(bytes);
  if (features.has_animation) {
    bool seen = false;
    VIDERE_RETURN_IF_ERROR(decode_webp_frames(bytes, options, [&](int64_t, const Image& frame) {
      picture.image = frame;
      seen = true;
      return false;
    }));
    if (!seen) return corrupt_image("WebP");
    return picture;
  }
  WebPDecoderConfig config;
  if (!WebPInitDecoderConfig(&config)) return internal_error("libwebp's ABI differs");
  const size_t num_pixels = static_cast<size_t>(features.width) * features.height;
  const int num_channels = features.has_alpha ? 4 : 3;
  picture.image = make_image(features.width, features.height);
  std::vector<uint8_t> rgba(features.has_alpha ? num_pixels * 4 : 0);
  config.output.colorspace = features.has_alpha ? MODE_RGBA : MODE_RGB;
  config.output.is_external_memory = 1;
  config.output.u.RGBA.rgba = features.has_alpha ? rgba.data() : picture.image.rgb.data();
  config.output.u.RGBA.stride = features.width * num_channels;
  config.output.u.RGBA.size = num_pixels * num_channels;
  const auto status = WebPDecode(bytes.data(), bytes.size(), &config);
  if (status != VP8_STATUS_OK) return webp_error(status);
  for (int y = 0; features.has_alpha && y < features.height; ++y) {
    const int64_t row = static_cast<int64_t>(y) * features.width;
    composite_row(rgba.data() + 4 * row, features.width, options.rgba_background_color,
                  picture.image.rgb.data() + 3 * row);
  }
  return picture;
}

}  // namespace videre::internal
