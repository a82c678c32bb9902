"""From one video to training examples: what `prepare` does for each line of the manifest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from ..errors import ConsisIDError
from ..evaluation.video import VideoFile
from ..face.keypoints import draw_keypoints, map_points
from ..face.parsing import FACE_LABELS, label_pixels, whiten_background
from .cache import CachedClip, CachedReference, Geometry
from .encoders import Encoders
from .frames import (
    TOLERANCE,
    Window,
    choose_clips,
    frame_rate,
    latent_mask,
    place_window,
    read_masks,
    resize,
    resized_size,
    segments,
)
from .looks import LOOKS, Look, best, glance, look, look_at_photos, of_one_person, spread
from .manifest import Record, Refused

_LEAST_PARSED = 0.25  # of the face's box; less, and the parser has failed
_MODEL_RATE = 8  # frames in a second of the videos that ConsisID makes
_RATES = 6, 12  # of clips that need no remark

Example = tuple[CachedClip, list[str]]
"""A clip, and sentences about what is unusual about it."""


@dataclass(frozen=True)
class Settings:
    """What `prepare` makes of each video."""

    geometry: Geometry = field(default_factory=Geometry)
    clips: int = 1
    """At most so many of a video."""
    references: int = 4
    """At most so many from inside a clip, and as many from outside."""
    variants: int = 4
    """Of the noise on a reference; the first has none."""


@dataclass(frozen=True, eq=False)
class _Clip:
    """The frames of a clip on their way through the nets."""

    positions: range
    """Of its frames in the video."""
    size: tuple[int, int]
    """(height, width) of the video's frames."""
    window: Window
    pixels: torch.Tensor
    """[F, 3, H, W] uint8, cut to the clip's size."""
    looks: list[Look]
    """At the frames that stand for latent frames."""
    boxes: np.ndarray
    """[N, 4] of the faces in the looks, in pixels of the clip."""


class ExampleMaker:
    """Makes training examples of one video after another."""

    def __init__(self, encoders: Encoders, settings: Settings) -> None:
        """
        Args:
            encoders: the nets.
            settings: what is wanted.
        """
        self.encoders, self.settings = encoders, settings

    def examples(self, record: Record, seed: int) -> Iterator[Example]:
        """The clips of a video. Run it under `torch.inference_mode()`.

        Args:
            record: of the manifest.
            seed: of the references' noise.

        Raises:
            Refused: it cannot be trained on.
        """
        if record.refused:
            raise record.refused
        if not record.caption:
            raise Refused("no caption", "it has no caption. Describe what the video shows.")
        try:
            yield from self._examples(record, torch.Generator().manual_seed(seed))
        except Refused:
            raise
        except ConsisIDError as error:
            raise Refused("unreadable", str(error)) from None

    def _examples(self, record, generator):
        geometry, detector = self.settings.geometry, self.encoders.detector
        video = VideoFile(record.video)
        usable = [i for i in record.frames or range(video.frame_count) if i < video.frame_count]
        choose_clips([range(len(usable))], geometry, 1)  # Says that it is too short before anybody looks for faces.
        looks = []
        for find in (glance(detector), detector.detect):
            found = [look(find, frame, position) for position, frame in video.frames(spread(usable, LOOKS))]
            if looks := list(filter(None, found)):
                break
        looks = of_one_person(looks)
        if record.frames:
            stretches = segments(usable, TOLERANCE)
        else:
            # A face may be missed at a single look.
            stretches = segments([found.position for found in looks], 2 * (len(usable) // (LOOKS - 1) + 1))
        clips = choose_clips(stretches, geometry, self.settings.clips)
        photos, notes = look_at_photos(detector, record.faces, looks)
        text, cut = self.encoders.encode_text(record.caption)
        if cut:
            notes.append(f"Its caption is {cut} tokens too long; the end of it is cut off.")
        notes += _rate_notes(record, clips[0].step, geometry)
        refusals = []
        for number, positions in enumerate(clips, start=1):
            name = record.name if number == 1 else f"{record.name} #{number}"
            outside = [found for found in looks if not positions[0] <= found.position <= positions[-1]]
            outside = [*photos, *best(outside, self.settings.references)][: self.settings.references]
            try:
                yield self._example(video, find, record, name, positions, text, outside, notes, generator)
            except Refused as refused:
                refusals.append(refused)
        if len(refusals) == len(clips):
            raise refusals[0]

    def _example(self, video, find, record, name, positions, text, outside, notes, generator):
        clip, is_moved = self._read(video, find, positions)
        if is_moved:
            notes = [*notes, "The middle of its frames would cut the face off; the clip is cut out around it."]
        if not outside:
            notes = [*notes, "It has no reference from outside the clip."]
        source, mask = self._mask(clip, record.mask)
        mean, std = self.encoders.encode_video(clip.pixels)
        inside = best(clip.looks, self.settings.references)
        example = CachedClip(
            name=name,
            caption=record.caption,
            person=record.person,
            mask_source=source,
            latent_mean=mean,
            latent_std=std,
            text=text,
            mask=mask.half(),
            inside=[self._reference(found, generator) for found in inside],
            outside=[self._reference(found, generator) for found in outside],
        )
        return example, notes

    def _read(self, video, find, positions):
        """(_Clip, whether its window is not the middle)."""
        geometry = self.settings.geometry
        looked = {positions[0], *(positions[i] for i in range(2, len(positions), 4))}
        frames, looks = [], []
        for position, frame in video.frames(positions):
            size = frame.shape[:2]
            frames.append(resize(torch.from_numpy(frame).movedim(-1, 0), resized_size(size, geometry)))
            if position in looked and (found := look(find, frame, position)):
                looks.append(found)
        if len(frames) < len(positions):
            raise Refused(
                "unreadable", f"only {len(frames)} of a clip's {len(positions)} frames can be read. Save it again."
            )
        looks = of_one_person(looks)
        if len(looks) < len(looked) / 2:
            raise Refused(
                "no face",
                f"its face is found in {len(looks)} of {len(looked)} frames of the clip. Use a video in which it stays "
                "turned to the camera.",
            )
        resized = resized_size(size, geometry)
        boxes = np.stack([found.face.bbox for found in looks]) * np.tile(np.divide(resized, size)[::-1], 2)
        window = place_window(resized, boxes, geometry)
        boxes = boxes - np.tile((window.left, window.top), 2)
        return _Clip(positions, size, window, window.cut(torch.stack(frames)), looks, boxes), not window.is_middle

    def _mask(self, clip, given):
        """(where it comes from, [T, h, w] in 0..1)."""
        if given:
            masks = read_masks(given, clip.positions, clip.size)
            scaled = [
                resize(torch.from_numpy(mask[None].astype(np.uint8) * 255), clip.window.resized) for mask in masks
            ]
            source, mask = "given", clip.window.cut(torch.cat(scaled)).float() / 255
        else:
            source, mask = self._made_mask(clip)
        mask = latent_mask(mask, self.settings.geometry)
        if not mask.any():
            raise Refused("mask", f"its mask {given or ''} is empty in the clip. Correct it, or leave it out.")
        return source, mask

    def _made_mask(self, clip):
        """The face as the parser sees it in the looks, or where it fails, its box; other frames take the nearest."""
        parsed = np.stack([self._parsed(found, clip) for found in clip.looks])
        boxed = np.stack([_filled(box, clip.window) for box in clip.boxes])
        is_parsed = (parsed.sum((1, 2)) >= _LEAST_PARSED * boxed.sum((1, 2))).all()
        looked = np.array([found.position for found in clip.looks])
        nearest = [np.abs(looked - position).argmin() for position in clip.positions]
        masks = (parsed if is_parsed else boxed)[nearest]
        return "parsing" if is_parsed else "face box", torch.from_numpy(masks)

    def _parsed(self, found, clip):
        """[H, W] float32: where the parser sees the face, in pixels of the clip."""
        import cv2

        labels = label_pixels(self.encoders.parser, self.encoders.crop_tensor(found.crop))[0, 0].cpu().numpy()
        region = np.isin(labels, FACE_LABELS).astype(np.float32)
        scale = np.divide(clip.window.resized, clip.size)[::-1]
        to_clip = np.diag(scale) @ cv2.invertAffineTransform(found.alignment.astype(np.float64))
        to_clip[:, 2] += (scale - 1) / 2 - (clip.window.left, clip.window.top)  # Pixel centres stay centres.
        return cv2.warpAffine(region, to_clip, (clip.window.width, clip.window.height))

    def _reference(self, found, generator):
        colour, gray = whiten_background(self.encoders.parser, self.encoders.crop_tensor(found.crop))
        face = (colour[0].movedim(0, -1).cpu().numpy() * 255).astype(np.uint8)
        points = draw_keypoints(map_points(found.alignment, found.face.landmarks))
        eva_embedding, hidden_states = self.encoders.encode_face(gray)
        sigma = torch.randn(self.settings.variants, generator=generator).mul(0.5).sub(3).exp()
        sigma[0] = 0
        moments = [
            part
            for picture in (face, points)
            for part in self.encoders.encode_pictures(_noisy(picture, sigma, self.settings.geometry, generator))
        ]
        return CachedReference(*moments, sigma, torch.from_numpy(found.face.embedding), eva_embedding, hidden_states)


def _rate_notes(record, stride, geometry):
    notes = []
    if stride < geometry.stride:
        notes.append(f"It is short: one of {stride} frames is taken instead of one of {geometry.stride}.")
    rate = (record.fps or frame_rate(record.video) or 0) / stride
    if rate and not _RATES[0] <= rate <= _RATES[1]:
        notes.append(
            f"Its clip has {rate:.1f} frames a second, and the model makes {_MODEL_RATE}: motion will be "
            f"{_MODEL_RATE / rate:.1f} times as fast. Prepare with another --stride, or convert the video."
        )
    return notes


def _filled(box, window):
    """[H, W] float32: 1 in the box."""
    mask = np.zeros((window.height, window.width), np.float32)
    x1, y1, x2, y2 = np.maximum(box.round(), 0).astype(int)
    mask[y1:y2, x1:x2] = 1
    return mask


def _noisy(picture, sigma, geometry, generator):
    """[V, 3, H, W] in -1..1: stretched to the clip's size as in the reference (train.py:1036-1045), with noise."""
    from PIL import Image

    stretched = Image.fromarray(picture).resize((geometry.width, geometry.height), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(stretched)).movedim(-1, 0).float() / 127.5 - 1
    noise = torch.randn(len(sigma), *pixels.shape, generator=generator)
    return pixels + sigma.view(-1, 1, 1, 1) * noise
