"""What serializers write lives and goes with its blob."""

from __future__ import annotations

from collections.abc import Callable

from functionfuse.errors import DamagedResult, SerializerNotRegistered, SideFileMissing, UnpicklableResult
from functionfuse.storage.base import Storage
from functionfuse.testing._oracles import Oracles
from functionfuse.testing._samples import Buffer, Note, NoteSerializer, generator, raises


class SideFileTests(Oracles):
    """Of serializers and side files."""

    def test_side_files_are_declared(self, open_storage: Callable[[], Storage]) -> None:
        """What a serializer writes comes back, is stored beside the blob, and stands in the footer with its size."""
        storage = open_storage()
        assert not storage.have_serializers()
        storage.register_persistent_serializers(NoteSerializer)
        assert storage.have_serializers()
        storage.save("w", "t", {"notes": [Note("one"), Note("three")]})
        assert sorted(self.side_files(storage).values()) == [b"one", b"three"]
        record = self.only_blob(storage).record
        assert sorted(side["size"] for side in record["side_files"]) == [3, 5]
        assert record["serializers"] == ["pickle", "NoteSerializer"]
        reader = open_storage()
        reader.register_persistent_serializers(NoteSerializer)
        assert reader.read_task("w", "t") == {"notes": [Note("one"), Note("three")]}

    def test_one_object_stays_one(self, open_storage: Callable[[], Storage]) -> None:
        """An object that a result holds twice is written once, and is one object again."""
        storage = open_storage()
        storage.register_persistent_serializers(NoteSerializer)
        note = Note("shared")
        storage.save("w", "t", (note, [note], Note("shared")))
        assert len(self.side_files(storage)) == 2
        first, (second,), other = storage.read_task("w", "t")
        assert first is second
        assert first is not other

    def test_side_files_go_with_their_blob(self, open_storage: Callable[[], Storage]) -> None:
        """Overwriting and removing leave no side file behind, also where the serializer is not registered."""
        writer = open_storage()
        writer.register_persistent_serializers(NoteSerializer)
        for storage in (writer, open_storage()):
            writer.save("w", "t", Note("old"))
            writer.save("w", "t", Note("new"))
            assert list(self.side_files(writer).values()) == [b"new"]
            storage.save("w", "t", "no note")
            assert self.side_files(writer) == {}
            writer.save("w", "t", [Note("a"), Buffer(bytearray(100_000)), Note("b")])
            storage.remove_task("w", "t")
            assert self.side_files(writer) == {}
            writer.save("w", "t", Note("a"))
            storage.remove_workflow("w")
            assert self.side_files(writer) == {}

    def test_a_failed_save_leaves_no_side_file(self, open_storage: Callable[[], Storage]) -> None:
        """Side files of a result that could not be pickled are gone; those of the result before it are not."""
        storage = open_storage()
        storage.register_persistent_serializers(NoteSerializer)
        storage.save("w", "t", Note("kept"))
        with raises(UnpicklableResult):
            storage.save("w", "t", [Note("lost"), generator()])
        assert list(self.side_files(storage).values()) == [b"kept"]
        assert storage.read_task("w", "t") == Note("kept")

    def test_a_serializer_is_missed_by_name(self, open_storage: Callable[[], Storage]) -> None:
        """Without its serializer a result is refused, with the serializer's name and how to register it."""
        writer = open_storage()
        writer.register_persistent_serializers(NoteSerializer)
        writer.save("w", "t", Note("x"))
        with raises(SerializerNotRegistered, "'w'.*'NoteSerializer'.*register_persistent_serializers") as caught:
            open_storage().read_task("w", "t")
        assert not isinstance(caught.value, (DamagedResult, FileNotFoundError))

    def test_a_lost_side_file_is_no_miss(self, open_storage: Callable[[], Storage]) -> None:
        """A side file that is gone is `SideFileMissing`, which does not pass for a miss; the task can be removed."""
        storage = open_storage()
        storage.register_persistent_serializers(NoteSerializer)
        storage.save("w", "t", Note("x"))
        self.lose_side_files(storage)
        with raises(SideFileMissing, "task 't' of workflow 'w'.*remove the task") as caught:
            storage.read_task("w", "t")
        assert not isinstance(caught.value, FileNotFoundError)
        storage.remove_task("w", "t")
        assert self.blobs(storage) == {}
