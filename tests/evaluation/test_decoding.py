"""Videos as cameras, browsers and editors write them. OpenCV, which the paper's code reads by, is the oracle of pixels.

Every frame carries its number, so that an order, a gap or a frame of another file shows. `pytest -s` prints the speed.
"""

import time
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.evaluation.decoding import count_frames, decode
from consisid_pack.consisid_core.evaluation.face_similarity import frame_positions
from consisid_pack.consisid_core.evaluation.video import VideoFile
from helpers.evaluation import refused
from helpers.videos import clip_file, write_video
from PIL import Image

BITS, SIDE = 9, 16  # The number of a frame: black and white squares.
MILLISECOND = Fraction(1, 1000)


def numbered(count, height=96, width=160):
    """[H, W, 3] uint8 pictures of soft colours, each with its number."""
    x, y = np.meshgrid(np.linspace(60, 190, width), np.linspace(60, 190, height))
    pictures = [np.stack([x, y, (255 - x + y) / 2], axis=-1).astype(np.uint8) for _ in range(count)]
    for number, picture in enumerate(pictures):
        for bit in range(BITS):
            picture[:SIDE, SIDE * bit : SIDE * (bit + 1)] = 235 if number >> bit & 1 else 16
    return pictures


def numbers(pictures):
    at = SIDE // 2
    return [sum(int(p[at, SIDE * bit + at].mean() > 125) << bit for bit in range(BITS)) for p in pictures]


def encode(path, pictures, codec="libx264", pix_fmt="yuv420p", rate=24, times=None, skip=0, **options):
    """A video in whatever the name of the file says. times: in ms, of each frame; skip: packets left out."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pix_fmt
        if times:
            stream.time_base = stream.codec_context.time_base = MILLISECOND
        packets = []
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, "rgba" if picture.shape[2] == 4 else "rgb24")
            if times:
                frame.pts, frame.time_base = times[number], MILLISECOND
            packets += stream.encode(frame)
        for packet in (packets + stream.encode())[skip:]:
            file.mux(packet)
    return path


def read(path):
    return [picture for _, picture in VideoFile(path).frames()]


def read_by_opencv(path):
    capture, pictures = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG), []
    while (answer := capture.read())[0]:
        pictures.append(answer[1][:, :, ::-1])
    return pictures


def difference(pictures, others):
    """Mean of 0..255, of the frame that differs most."""
    pairs = zip(pictures, others, strict=True)
    return max(np.abs(a.astype(int) - np.asarray(b, int)).mean() for a, b in pairs)


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "options"),
    [
        *((f"h264.{kind}", "libx264", "yuv420p", {"x264-params": "tff=1"}) for kind in ("mp4", "mkv", "ts", "mov")),
        ("bff.mkv", "libx264", "yuv420p", {"x264-params": "bff=1"}),
        ("422.mp4", "libx264", "yuv422p", {"x264-params": "tff=1"}),
        ("444.mp4", "libx264", "yuv444p", {"x264-params": "tff=1"}),
        ("10 bit.mkv", "libx264", "yuv420p10le", {"x264-params": "tff=1"}),
        *((f"mpeg2.{kind}", "mpeg2video", "yuv420p", {"flags": "+ilme+ildct"}) for kind in ("mpg", "ts", "mkv", "mp4")),
        ("mpeg4.avi", "mpeg4", "yuv420p", {"flags": "+ilme+ildct"}),
    ],
)
def test_interlaced_clips_show_their_own_pictures(tmp_path, name, codec, pix_fmt, options):
    pictures = numbered(8)
    path = encode(tmp_path / name, pictures, codec, pix_fmt, 25, **options)
    with av.open(str(path)) as file:
        assert next(file.decode(video=0)).interlaced_frame
    found = read(path)
    assert numbers(found) == list(range(8)) and difference(found, pictures) < 4


def test_an_interlaced_grey_clip_after_a_face_shows_no_face(tmp_path, strict, portrait, man):
    """OpenCV left the picture that it had read before in memory, and said that it had read one."""
    face = write_video(tmp_path / "face.mp4", man[:3])
    grey = [np.full_like(man[0], 128)] * 3
    grey = encode(tmp_path / "grey.mp4", grey, **{"x264-params": "tff=1"})
    assert strict.score(VideoFile(face), portrait).frames_without_face == 0
    assert strict.score(VideoFile(grey), portrait).frames_without_face == 3


def without_duration(path):
    """A browser's recording does not say how long a frame lasts."""
    content = path.read_bytes()
    start = content.index(bytes.fromhex("23e383"))  # DefaultDuration
    size = content[start + 3] & 0x7F
    path.write_bytes(content[:start] + bytes([0xEC, 0x80 | (2 + size)]) + bytes(2 + size) + content[start + 4 + size :])
    return path


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """361 frames, a third of them at 10 and the rest at 30 frames a second."""
    times = [100 * i for i in range(120)] + [12_000 + 1000 * i // 30 for i in range(241)]
    path = tmp_path_factory.mktemp("recording") / "recording.webm"
    return without_duration(encode(path, numbered(361, height=32), "libvpx", times=times, deadline="realtime"))


def test_a_browsers_recording_is_read_to_its_end(recording):
    guess = int(cv2.VideoCapture(str(recording), cv2.CAP_FFMPEG).get(cv2.CAP_PROP_FRAME_COUNT))
    video = VideoFile(recording)
    print("OpenCV's guess", guess)
    assert video.frame_count == 361 != guess
    assert numbers(read(recording)) == list(range(361))
    positions = frame_positions("paper", video.frame_count)
    found = list(video.frames(positions))
    assert [position for position, _ in found] == positions == numbers(picture for _, picture in found)
    assert (positions[0], positions[-1]) == (0, 360)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        *((f"{rate}.mpg", "mpeg2video", {"rate": rate}) for rate in (24, 25, 30, 50, 60)),
        ("24000 in 1001.mpg", "mpeg2video", {"rate": Fraction(24000, 1001)}),
        ("mpeg1.mpg", "mpeg1video", {"rate": 25}),
        ("33 ms.mkv", "libx264", {"times": [33 * i for i in range(50)]}),
        ("uneven.mp4", "libx264", {"times": [i * i for i in range(50)]}),
        ("b frames.mp4", "libx264", {"bf": "3"}),
        ("b frames.avi", "mpeg4", {"bf": "2"}),
        ("hidden frames.webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16"}),
        ("hevc.mp4", "libx265", {"x265-params": "log-level=none"}),
    ],
)
def test_every_frame_is_counted_and_comes_in_order(tmp_path, name, codec, options):
    path = encode(tmp_path / name, numbered(50, height=48), codec, **options)
    assert count_frames(path) == 50 and numbers(read(path)) == list(range(50))


def test_frames_that_an_edit_list_hides_are_not_counted():
    video = VideoFile(clip_file("no_face.mp4"))
    with av.open(str(video.path)) as file:
        assert file.streams.video[0].frames == 98
    assert video.frame_count == sum(1 for _ in decode(video.path)) == len(read_by_opencv(video.path)) == 95


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts"])
def test_a_clip_may_begin_between_keyframes(tmp_path, kind):
    path = encode(tmp_path / f"cut.{kind}", numbered(30), skip=3, g="10", bf="0")
    assert count_frames(path) == 20 and numbers(read(path)) == list(range(10, 30))


def test_positions_may_be_asked_for_in_any_order(tmp_path):
    video = VideoFile(encode(tmp_path / "a.mp4", numbered(30)))
    asked = [29, 3, 3, 99, 4, 99, 99, 0, 29]
    found = list(video.frames(asked))
    assert [position for position, _ in found] == [29, 3, 3, 4, 0, 29] == numbers(picture for _, picture in found)


EVEN, ODD = (96, 160), (95, 159)


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "size", "options"),
    [
        *(("libx264", pix_fmt, EVEN, {}) for pix_fmt in ("yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le")),
        ("libx264", "yuv420p", EVEN, {"color_range": "pc"}),
        *(
            ("libx264", "yuv420p", EVEN, {"colorspace": matrix, "color_range": span})
            for matrix in ("bt709", "bt470bg", "smpte170m", "smpte240m", "fcc", "bt2020nc")
            for span in ("tv", "pc")
        ),
        ("libx264", "yuv420p10le", EVEN, {"colorspace": "bt2020nc"}),
        ("libx264", "yuv444p", ODD, {}),
        ("libx264rgb", "rgb24", ODD, {}),
        ("mjpeg", "yuvj422p", ODD, {}),
        *(("ffv1", pix_fmt, ODD, {}) for pix_fmt in ("yuv420p", "yuv420p12le", "gray", "gray10le")),
        ("prores_ks", "yuv422p10le", EVEN, {}),
        ("prores_ks", "yuva444p10le", EVEN, {}),
        ("libvpx", "yuva420p", ODD, {"auto-alt-ref": "0"}),
        ("libvpx-vp9", "yuva420p", ODD, {"cpu-used": "8"}),
        ("qtrle", "argb", EVEN, {}),
        ("png", "rgba", ODD, {}),
    ],
)
def test_pixels_are_those_of_opencv(tmp_path, codec, pix_fmt, size, options):
    """At most 1 of 255 in the mean; the two may be built on different FFmpeg."""
    pictures = numbered(3, *size)
    if pix_fmt in ("yuva420p", "yuva444p10le", "argb", "rgba"):
        alpha = np.linspace(0, 255, size[1]).astype(np.uint8)[None, :, None].repeat(size[0], 0)
        pictures = [np.concatenate([picture, alpha], axis=2) for picture in pictures]
    kind = "mov" if codec in ("prores_ks", "qtrle", "png") else "mkv"
    path = encode(tmp_path / f"a.{kind}", pictures, codec, pix_fmt, **options)
    found = read(path)
    assert all(picture.shape == (*size, 3) and picture.flags.c_contiguous for picture in found)
    apart = difference(found, read_by_opencv(path))
    print(f"{apart:.3f}")
    assert apart <= 1


@pytest.mark.parametrize("kind", ["gif", "apng"])
def test_pictures_that_move_are_read_as_by_opencv(tmp_path, kind):
    pictures = [Image.fromarray(picture).convert("RGBA") for picture in numbered(6)]
    for picture in pictures:
        picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    path = tmp_path / f"a.{kind}"
    pictures[0].save(path, "PNG" if kind == "apng" else None, save_all=True, append_images=pictures[1:], disposal=1)
    found = read(path)
    assert len(found) == 6 and difference(found, read_by_opencv(path)) == 0


@pytest.mark.parametrize("transparent", [False, True])
def test_animated_webp_is_read(tmp_path, transparent):
    pictures = [Image.fromarray(picture) for picture in numbered(6)]
    if transparent:
        for picture in pictures:
            picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    path = tmp_path / "a.webp"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], lossless=True, exact=True)
    found = read(path)
    assert numbers(found) == list(range(6))
    assert difference([picture[:, 80:] for picture in found], [picture[:, 80:] for picture in numbered(6)]) < 1
    whole = path.read_bytes()
    for size in (30, len(whole) // 2):
        path.write_bytes(whole[:size])
        with refused("The video .*a.webp cannot be read: it is damaged or incomplete"):
            VideoFile(path)


@pytest.mark.parametrize("kind", ["mp4", "webm", "mkv"])
def test_av1_is_read(tmp_path, kind):
    pictures = numbered(12)
    found = read(encode(tmp_path / f"a.{kind}", pictures, "libsvtav1", preset="12"))
    assert numbers(found) == list(range(12)) and difference(found, pictures) < 4


TURNS = {  # a, b, c, d of the display matrix, quarters to the left
    "90": ((0, 1, -1, 0), -1), "180": ((-1, 0, 0, -1), 2), "270": ((0, -1, 1, 0), 1), "45": ((0.7, 0.7, -0.7, 0.7), 0),
}  # fmt: skip


@pytest.mark.parametrize("turn", TURNS)
def test_a_clip_on_its_side_is_turned(tmp_path, turn):
    pictures = numbered(4)
    path = encode(tmp_path / "a.mp4", pictures)

    def matrix(a, b, c, d):
        numbers = (a, b, 0, c, d, 0, 0, 0, 1 << 14)
        return b"".join(int(number * 65536).to_bytes(4, "big", signed=True) for number in numbers)

    (a, b, c, d), quarters = TURNS[turn]
    content = path.read_bytes()
    track = content.index(b"tkhd")
    path.write_bytes(content[:track] + content[track:].replace(matrix(1, 0, 0, 1), matrix(a, b, c, d), 1))
    found = read(path)
    assert difference(found, [np.rot90(picture, quarters) for picture in pictures]) < 4
    assert difference(found, read_by_opencv(path)) <= 1


def with_sound(path, *types):
    """Tracks in this order."""
    with av.open(str(path), "w") as file:
        streams = {}
        for kind in types:
            if kind == "audio":
                streams[kind] = file.add_stream("aac", 44100, layout="mono")
            else:
                streams[kind] = file.add_stream("libx264", 24)
                streams[kind].width, streams[kind].height = 160, 96
        for kind, stream in streams.items():
            for number, picture in enumerate(numbered(12)):
                if kind == "video":
                    frame = av.VideoFrame.from_ndarray(picture, "rgb24")
                else:
                    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
                    frame.sample_rate, frame.pts = 44100, 1024 * number
                file.mux(stream.encode(frame))
            file.mux(stream.encode())
    return path


def test_sound_is_passed_over(tmp_path):
    assert numbers(read(with_sound(tmp_path / "a.mp4", "audio", "video"))) == list(range(12))
    for kind in ("mp4", "mkv"):
        with refused(f"The video .*only sound.{kind} holds no pictures, only audio"):
            VideoFile(with_sound(tmp_path / f"only sound.{kind}", "audio"))


def test_a_file_may_have_any_name_and_any_title(tmp_path, monkeypatch):
    whole = encode(tmp_path / "whole.mp4", numbered(3)).read_bytes()
    monkeypatch.chdir(tmp_path)
    for name in ("a%03d.mp4", "été 'x'.mp4", "-i.mp4"):
        (tmp_path / name).write_bytes(whole)
        assert numbers(read(name)) == [0, 1, 2]
    with av.open("title.avi", "w") as file:
        file.metadata["title"] = "XXXX"
        stream = file.add_stream("mpeg4", 24)
        stream.width, stream.height = 160, 96
        for picture in numbered(3):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        file.mux(stream.encode())
    title = tmp_path / "title.avi"
    title.write_bytes(title.read_bytes().replace(b"XXXX", "été!".encode("latin-1")))
    assert numbers(read(title)) == [0, 1, 2]


def test_no_playlist_leads_to_the_network(tmp_path):
    (tmp_path / "a.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    with refused("The video .*a.m3u8 (cannot be read|holds no)"):
        VideoFile(tmp_path / "a.m3u8")


def test_what_cannot_be_decoded_says_what_helps(tmp_path):
    whole = encode(tmp_path / "whole.mp4", numbered(3)).read_bytes()
    (tmp_path / "other.mp4").write_bytes(whole.replace(b"avc1", b"zzzz"))
    with refused(r"The video .*other.mp4 is encoded in a way that PyAV .* convert it to H.264: ffmpeg -i"):
        VideoFile(tmp_path / "other.mp4")
    start = whole.index(b"mdat") + 4
    (tmp_path / "noise.mp4").write_bytes(whole[:start] + b"\x55" * (len(whole) - start))
    with refused("cannot be read|No frame of the video .*noise.mp4 can be decoded .h264"):
        VideoFile(tmp_path / "noise.mp4")
    video = VideoFile(encode(tmp_path / "colours.mp4", numbered(3), colorspace="ycgco"))
    with refused("The colours of the video .*colours.mp4 cannot be converted .matrix 8 .* ffmpeg -i"):
        list(video.frames())


def test_a_damaged_file_gives_the_frames_that_can_be_decoded(tmp_path, caplog):
    path = encode(tmp_path / "a.mp4", numbered(40), g="10", bf="0")
    with av.open(str(path)) as file:
        packets = [(packet.pos, packet.size) for packet in file.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    start, size = packets[20]  # A keyframe: the ten that rest on it go too, or show what is left of it.
    content[start : start + size] = b"\xff" * size
    path.write_bytes(content)
    video = VideoFile(path)
    found = numbers(read(path))
    assert 29 <= len(found) == video.frame_count < 40
    assert found[:20] == list(range(20)) and found[-10:] == list(range(30, 40))
    assert "a.mp4 is damaged" in caplog.text


def test_a_recording_that_breaks_off_is_named(tmp_path, recording, caplog):
    whole = recording.read_bytes()
    path = tmp_path / "cut.mkv"
    encode(path, numbered(100), g="10")
    assert not caplog.records
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    count = VideoFile(path).frame_count
    assert 20 < count < 90 and numbers(read(path)) == list(range(count))
    assert "cut.mkv breaks off: it should last 4.2 s" in caplog.text
    caplog.clear()
    (tmp_path / "whole.webm").write_bytes(whole)
    assert VideoFile(tmp_path / "whole.webm").frame_count == 361 and not caplog.records


def test_reading_costs_little_more_than_by_opencv():
    """In processor time, whatever else the machine does. Counting decodes every frame once more."""
    path = clip_file("WolfgangLanger_Pexels.mp4")
    start = time.process_time()
    assert len(read_by_opencv(path)) == 472
    opencv = time.process_time() - start
    start = time.process_time()
    video = VideoFile(path)
    counted = time.process_time() - start
    assert sum(1 for _ in video.frames()) == 472
    whole = time.process_time() - start
    positions = frame_positions("paper", 472)
    start = time.process_time()
    assert len(list(video.frames(positions))) == 16
    sixteen = time.process_time() - start
    start = time.process_time()
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    assert all(capture.set(cv2.CAP_PROP_POS_FRAMES, position) and capture.read()[0] for position in positions)
    jumps = time.process_time() - start
    print(
        f"472 frames of 640x360: OpenCV {opencv:.2f} s; here {whole:.2f} s, of which {counted:.2f} s for their number; "
        f"the paper's 16 frames: OpenCV {jumps:.2f} s, here {sixteen:.2f} s"
    )
    assert whole < 20 * opencv


def test_a_pass_that_is_given_up_closes_its_file(tmp_path):
    path = encode(tmp_path / "a.mp4", numbered(30))
    pictures = decode(path)
    assert numbers([next(pictures)()]) == [0]
    pictures.close()
    path.rename(tmp_path / "b.mp4")  # On Windows no open file is renamed.
    with pytest.raises(ConsisIDError):
        VideoFile(path)
