"""Synthetic people: captioned clips and photos of people who do not exist, with label maps and landmarks.

    head = Head.load()
    renderer = Renderer(head, 96, 96)
    rng = np.random.default_rng(0)
    person = sample_person(head, rng)
    clip = make_clip(head, renderer, person, rng)

`python -m consisid_core.people --help` writes a whole set. Needs numba.
"""
