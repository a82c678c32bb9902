from consisid_pack.consisid_core.batch.faces import ANALYZER, LOAD, SAVE, photos_of, split_faces
from helpers.batch import demo_graph, node


def test_the_analysis_is_cut_out():
    graph = demo_graph()
    rest, parts = split_faces(graph, "weights")
    ((name, part),) = parts.items()
    assert part.keys() == {"1", "2", "3", "save"}
    assert part["save"]["class_type"] == SAVE and part["save"]["inputs"] == {"face": ["3", 0], "name": name}
    assert rest["3"]["class_type"] == LOAD and rest["3"]["inputs"] == {"identity": name}
    # The photo served the analysis alone; the face nets serve the local half too.
    assert rest.keys() == graph.keys() - {"1"}
    assert graph == demo_graph()


def test_the_name_goes_by_what_the_face_depends_on():
    def name(change=lambda graph: None, weights="weights"):
        graph = demo_graph()
        change(graph)
        return next(iter(split_faces(graph, weights)[1]))

    assert name() == name(lambda graph: graph["14"]["inputs"].update(seed=1))
    others = {
        name(),
        name(lambda graph: graph["1"]["inputs"].update(image="other.png")),
        name(lambda graph: graph["3"]["inputs"].update(background="keep")),
        name(weights="others"),
    }
    assert len(others) == 4


def test_an_analysis_whose_picture_of_faces_is_shown_stays():
    graph = demo_graph() | {"90": node("PreviewImage", images=["3", 2])}
    rest, parts = split_faces(graph, "")
    assert not parts and rest == graph


def test_a_photo_that_is_used_elsewhere_is_kept():
    graph = demo_graph() | {"90": node("PreviewImage", images=["1", 0])}
    rest, _ = split_faces(graph, "")
    assert "1" in rest and rest["3"]["class_type"] != ANALYZER
    assert photos_of(rest, lambda name: True) == {"portrait.png"} and not photos_of(rest, lambda name: False)
