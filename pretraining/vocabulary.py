"""What mini's prior draws from words: objects by name, each with the icon that shows it, and colours.

Chosen by hand from three icon packages (`corpus.SOURCES`): things worth stitching that still tell what they are at 64
px. Left out: flags, clocks, faces and hands of people, arrows, signs with letters, and near twins.
"""

from __future__ import annotations

COLOURS: dict[str, tuple[int, int, int]] = {  # name -> RGB of the main colour
    "red": (206, 32, 41), "orange": (240, 132, 28), "yellow": (250, 204, 44), "green": (58, 150, 66),
    "blue": (42, 98, 196), "purple": (132, 70, 168), "pink": (244, 140, 182), "brown": (126, 78, 44),
    "black": (38, 36, 42), "white": (246, 244, 238), "grey": (142, 146, 152), "turquoise": (44, 176, 178),
}  # fmt: skip
COLOUR_SYNONYMS = {"gray": "grey", "violet": "purple", "golden": "yellow", "crimson": "red", "teal": "turquoise"}

# One object an entry: its name, other names after "/", the icon after "=" where it is called otherwise.
_OBJECTS = """
ant, bat, bear, bird, butterfly, camel, cat/kitten/kitty=cat-face, chick=front-facing-baby-chick, hen/chicken=chicken,
rooster/cock, squirrel/chipmunk=chipmunk, cow=cow-face, crab, crocodile/alligator, deer, dog/puppy=dog-face, dolphin,
dove/pigeon, dragon=dragon-face, duck, eagle, elephant, fish=tropical-fish, flamingo, fox, frog, giraffe, goat,
goose/geese, hedgehog, hippo/hippopotamus=hippopotamus, bee/honeybee=honeybee, horse/pony=horse-face, jellyfish,
kangaroo, koala, ladybird/ladybug=lady-beetle, leopard, lion, lobster, monkey=monkey-face, mouse/mice=mouse-face,
octopus, owl, panda, parrot, peacock, penguin, pig/piglet=pig-face, polar bear=polar-bear,
rabbit/bunny/hare=rabbit-face, raccoon, rhino/rhinoceros=rhinoceros, scorpion, seal, shark, sheep/lamb=ewe, sloth,
snail, snake, spider, swan, tiger=tiger-face, dinosaur=sauropod, turtle/tortoise, unicorn, whale=spouting-whale,
wolf/wolves, zebra, caterpillar=bug, shell/seashell=spiral-shell, paw=paw-prints, teddy/teddy bear=teddy-bear, cherry
blossom=cherry-blossom, bouquet, cactus, tree/oak=deciduous-tree, fir/pine/spruce=evergreen-tree, palm=palm-tree,
christmas tree=christmas-tree, maple leaf=maple-leaf, leaf/leaves=leaf-fluttering-in-wind, clover=four-leaf-clover,
shamrock, flower/daisy=blossom, hibiscus, hyacinth, lotus, mushroom/toadstool, rose, sunflower, tulip,
seedling/sprout, potted plant=potted-plant, feather, wheat=sheaf-of-rice, avocado, banana, beer=beer-mug,
pepper=bell-pepper, cake=birthday-cake, blueberry=blueberries, bread/loaf, broccoli, candy/sweet, carrot,
cheese=cheese-wedge, cherry=cherries, chocolate=chocolate-bar, cookie/biscuit, corn/maize=ear-of-corn, croissant,
cucumber, cupcake/muffin, donut/doughnut=doughnut, egg=egg, eggplant/aubergine, fries=french-fries, grape=grapes,
apple=red-apple, hamburger/burger, honey=honey-pot, coffee/tea=hot-beverage, hot dog=hot-dog, chili=hot-pepper, ice
cream=soft-ice-cream, kiwi=kiwi-fruit, lemon, lollipop, peach, pear, pineapple, pizza, popcorn, pretzel, strawberry,
sushi, teapot, tomato, watermelon, wine=wine-glass, cocktail=cocktail-glass, tangerine/mandarin/orange=tangerine,
spoon, knife/knives=kitchen-knife, fork=fork-and-knife, balloon, ball/football=soccer-ball, baseball, basketball,
boxing glove=boxing-glove, spade=spade-suit, club=club-suit, kite, medal=sports-medal, bow/ribbon=ribbon,
thread/spool=thread, yarn/wool=yarn, trophy, gift/present=wrapped-gift, pumpkin=jack-o-lantern, dice/die=game-die,
palette=artist-palette, axe, backpack/rucksack=backpack, basket, bed, bell, bomb, book=closed-book, boomerang, broom,
camera, candle, chair, coin, crayon, crown, door, dress, drum, envelope/letter=envelope, fan=folding-hand-fan,
pen=fountain-pen, gear/cog=gear, diamond/gem/jewel=gem-stone, glasses/spectacles=glasses, glove/mitten=gloves,
graduation cap=graduation-cap, guitar, hammer, handbag/bag=handbag, headphone=headphone, heel=high-heeled-shoe,
jeans/trousers=jeans, key, laptop/computer=laptop, bulb/lamp=light-bulb, lipstick, lock/padlock=locked, magnet,
magnifying glass=magnifying-glass-tilted-left, mailbox=closed-mailbox-with-raised-flag, megaphone, microphone,
tie/necktie=necktie, paintbrush/brush=paintbrush, pencil, telephone/phone=telephone, radio, ring,
ruler=straight-ruler, saxophone, scarf, scissors, shield, shirt=t-shirt, shoe/sneaker=running-shoe, shorts, soap,
sock=socks, sunglasses, sword=crossed-swords, telescope, television/tv=television, hat=top-hat, cap=billed-cap,
trumpet, violin, watch, window, boot=womans-boot, wrench/spanner=wrench, lantern=red-paper-lantern,
plane/airplane/aeroplane=airplane, anchor, car=automobile, bicycle/bike=bicycle, bus, truck/lorry=delivery-truck,
tractor, train=train, steam engine/locomotive=locomotive, castle, church, tent=tent, cloud, lightning=high-voltage,
compass, moon=crescent-moon, drop/raindrop=droplet, ferris wheel=ferris-wheel, fire/flame=fire, fire
engine=fire-engine, ufo=flying-saucer, globe/earth=globe-showing-europe-africa, helicopter,
hourglass=hourglass-not-done, house/home=house, lighthouse, motorcycle/motorbike=motorcycle,
mountain=snow-capped-mountain, racing car=racing-car, rainbow, planet/saturn=ringed-planet, rocket, roller
skate=roller-skate, boat/sailboat=sailboat, ship, snowflake, snowman=snowman-without-snow, star, sun, taxi, traffic
light=vertical-traffic-light, volcano, wave=water-wave, alarm clock=alarm-clock, suitcase/luggage=luggage,
umbrella=umbrella, heart=red-heart, broken heart=broken-heart, skull, ghost, alien, robot,
smiley=smiling-face-with-smiling-eyes, fleur-de-lis, note=musical-note, sparkles, circle=red-circle,
square=red-square, triangle=red-triangle-pointed-up, rhombus=large-blue-diamond, eye, bone, tooth/teeth,
lips/mouth=mouth
"""


def _parsed() -> dict[str, tuple[str, tuple[str, ...]]]:
    found = {}
    for entry in _OBJECTS.replace("\n", " ").split(","):
        names, _, icon = entry.strip().partition("=")
        name, *others = names.split("/")
        found[name] = (icon or name.replace(" ", "-"), tuple(others))
    return found


OBJECTS: dict[str, tuple[str, tuple[str, ...]]] = _parsed()  # name -> its icon, other names
