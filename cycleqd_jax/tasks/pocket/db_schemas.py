"""The kinds of tables that the database problems are about."""

# ruff: noqa: E501 (the schemas read best as a table)

import dataclasses


@dataclasses.dataclass(frozen=True)
class Schema:
    """A kind of table.

    Attributes:
      table: its name.
      columns: label, group, number, number.
      labels: what the label column may hold.
      groups: what the group column may hold.
      ranges: smallest and largest value of the two number columns.
    """

    table: str
    columns: tuple[str, str, str, str]
    labels: tuple[str, ...]
    groups: tuple[str, ...]
    ranges: tuple[tuple[int, int], tuple[int, int]]


def _schema(columns: str, labels: str, groups: str, *ranges: tuple[int, int]) -> Schema:
    table, *names = columns.split()
    one, two = ranges
    return Schema(
        table, tuple(names), tuple(labels.split()), tuple(groups.split()), (one, two)
    )


_PEOPLE = "Ada Ben Cleo Dan Eva Finn Gina Hugo Iris Jack Kim Leo Mia Noah Olga Paul"
_PETS = "Rex Luna Milo Bella Max Coco Rocky Daisy Oscar Ruby Toby Lily Felix Molly"
_CITIES = "Rome Paris Oslo Lima Cairo Delhi Tokyo Quito Bern Riga Milan Dublin Lyon"
_PLANTS = "rose fern ivy lily tulip oak palm basil mint sage pine daisy maple orchid"
_FOODS = "soup pizza salad pasta curry rice bread stew tacos sushi pie burger cake"

# fmt: off
SCHEMAS = (
    _schema("pets name kind age weight", _PETS,
            "dog cat bird fish", (1, 20), (2, 60)),
    _schema("books title genre year pages", "Dune Emma Ulysses Hamlet Walden Dracula Persuasion Ivanhoe Candide Beloved Rebecca Siddhartha",
            "novel poetry crime drama", (1950, 1999), (50, 99)),
    _schema("cars model maker doors price", "Alto Golf Polo Civic Panda Astra Focus Corsa Yaris Micra Tipo Jazz",
            "Ford Fiat Opel Honda", (10, 40), (10, 90)),
    _schema("cities name country people area", _CITIES,
            "Peru Italy Egypt India", (1, 40), (10, 90)),
    _schema("players name team goals age", _PEOPLE,
            "red blue green white", (1, 30), (17, 40)),
    _schema("songs title artist length plays", "Blue Stay Hello Rain Fire Gold Smile Dream Angel Home Storm Wings",
            "Abba Muse Queen Blur", (60, 99), (5, 90)),
    _schema("staff name dept salary age", _PEOPLE,
            "sales legal design support", (20, 90), (20, 64)),
    _schema("films title studio year rating", "Alien Jaws Rocky Heat Speed Gravity Frozen Casino Fargo Tenet Drive Brazil",
            "Orion Apollo Delta Comet", (1960, 1999), (10, 90)),
    _schema("products name type price stock", "lamp chair desk pen cup bag shelf clock mirror sofa bottle ruler",
            "home office garden kitchen", (5, 80), (1, 60)),
    _schema("students name class grade age", _PEOPLE,
            "math art music physics", (10, 60), (10, 30)),
    _schema("hotels name city rooms price", "Ritz Plaza Astoria Savoy Hilton Central Bristol Royal Lotus Garden Crown Alpina",
            "Rome Paris Oslo Lima", (10, 90), (40, 99)),
    _schema("plants name color height price", _PLANTS,
            "red green white yellow", (5, 90), (1, 30)),
    _schema("meals name type price calories", _FOODS,
            "lunch dinner snack vegan", (3, 30), (20, 90)),
    _schema("teams name league wins losses", "Lions Bears Hawks Wolves Tigers Sharks Eagles Bulls Foxes Giants Rockets Kings",
            "north south east west", (1, 40), (1, 40)),
    _schema("rooms name floor seats size", "Alpha Beta Gamma Delta Kappa Sigma Omega Theta Lambda Zeta Epsilon Iota",
            "first second third ground", (4, 60), (10, 90)),
    _schema("games title genre year score", "Pong Tetris Doom Myst Portal Zelda Quake Braid Limbo Celeste Hades Fez",
            "puzzle action racing sports", (1970, 1999), (10, 90)),
)
# fmt: on
