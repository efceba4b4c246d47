/* The grammar of the default text, written for this project; tools/stories.h explains the notation
 * and tools/stories.c compiles it. When you add words, keep each list free of words that begin
 * another of the same list ("pear", "pearl"): the test refuses them, because the text must tell
 * every choice. */
#include "tools/stories.h"

/* clang-format off */
const bb_story_source bb_story_grammar[] = {
    {"story", "{opening}{plot}{ending}\n\n"},

    {"opening", "Once there was {trait} {color} {animal} called {hero:hero}. {=hero.2} had "
                "{count} {things} and {count} {things}. |"
                "{hero:hero}, {trait} {color} {animal}, lived {home} with {count} {color} "
                "{things}. |"
                "Far away, {home}, lived {trait} {size} {animal}: \"{song}!\" That means: my "
                "name is {hero:hero}. "},

    {"plot", "3*{lost}|3*{market}|2*{spell}|2*{letter}"},

    {"lost", "One {weather} {day} {=hero.3} {toy:toy} was gone. {search} {trait.2} {size} "
             "{animal} named {friend:friend} sang: \"{song}!\" And there was the {=toy}! Until "
             "{hour} they {=toy.1}. "},
    {"search", "Under the {low} lay {count} {color} {things}, {count} {food} and {trait} "
               "{animal}, but no {=toy}.|"
               "Behind the {high} sat {trait} {color} {animal}, in the {box} {trait} {size} "
               "{animal}. \"{song}?\"|"
               "\"{song}?\" {said} {=hero}. \"{song}!\" {said} the {animal} by the {high}."},

    {"market", "On {day} {=hero} bought {count} {color} {food}, {count} {food}, {trait} {gift} "
               "and {trait} {color} {gift:gift}. {meeting} "},
    {"meeting", "\"I am so {sad:sad}!\" {said} {friend:friend}, {trait} {color} {animal}. So "
                "{=hero.1} gave {=friend} the {=gift} and a song: \"{song}!\"|"
                "But {trait} {size} {animal} named {friend:friend} stole the {=gift}! "
                "\"{song}!\" {said} {=hero}. \"{song}!\" {said} {=friend}.|"
                "There stood {friend:friend} the {animal} with {count} {color} {things} and "
                "{count} {things}, and {said}: \"{song}!\""},

    {"spell", "At {hour} {trait} {color} {animal} {said}: \"Say {a:syllable}-{b:syllable}, and "
              "{wish:wish}.\" {=hero.2} {said} \"{=a}-{=b}\" {times}, and {=wish.1}! Only "
              "{friend:friend} {said} \"{song}\" {times}. "},

    {"letter", "\"Dear {=hero}, come at {hour} with {count:count} {food:food}, {count} {things} "
               "and {trait} {gift}! {song}! Your {trait.1} {friend:friend}.\" {=hero.2} packed "
               "{=count} {=food} and {walked} past {trait} {animal} and the {high}. "},

    {"ending", "That night {=hero.1} dreamed of {count} {color} {things}.|"
               "{=hero.2} {said}: \"{song}!\" {=friend} {said}: \"{song}!\"|"
               "\"What a {weather} {day}!\" {said} {=friend}, and {=hero.1} laughed like {trait} "
               "{animal}.|"
               "And {=friend} and {=hero} ate {count} {food} and {count} {color} {food}."},

    /* Animals sing a line twice: the shortest lesson in copying. */
    {"song", "{x:syllable}{verse}"},
    {"verse", "3*-{y:syllable}-{z:syllable}, {=x}-{=y}-{=z}| {y:syllable}, {=x} {=y}"},

    /* forms: name / she / She / her */
    {"hero", "Anna/she/She/her|Bella/she/She/her|Clara/she/She/her|Dora/she/She/her|"
             "Emma/she/She/her|Flora/she/She/her|Greta/she/She/her|Hazel/she/She/her|"
             "Ida/she/She/her|Junie/she/She/her|Kiki/she/She/her|Lotte/she/She/her|"
             "Mina/she/She/her|Nell/she/She/her|Olive/she/She/her|Poppy/she/She/her|"
             "Arlo/he/He/his|Bruno/he/He/his|Cosmo/he/He/his|Dexter/he/He/his|Elmo/he/He/his|"
             "Felix/he/He/his|Gus/he/He/his|Hugo/he/He/his|Igor/he/He/his|Jasper/he/He/his|"
             "Kurt/he/He/his|Leo/he/He/his|Milo/he/He/his|Ned/he/He/his|Otto/he/He/his|"
             "Pip/he/He/his"},
    {"friend", "Quill|Rufus|Sage|Toby|Uma|Vera|Wanda|Xaver|Yuki|Zola|Basil|Cleo|Dot|Fern|Ginger|"
               "Hettie|Ivy|Juno|Luna|Moss|Nico|Oscar|Pearl|Rosie|Simon|Tilda|Viola|Winnie|"
               "Archie|Bertha|Edgar|Gilda"},
    {"animal", "fox|hedgehog|mouse|badger|owl|rabbit|otter|frog|snail|squirrel|goose|donkey|"
               "beetle|turtle|sparrow|robin|weasel|mole|toad|duck|goat|bear|lynx|magpie|newt|"
               "heron|cricket|spider|kitten|puppy|pony|crow"},
    {"trait", "a brave/brave/A brave|a shy/shy/A shy|a clever/clever/A clever|an old/old/An old|"
              "a lazy/lazy/A lazy|a hungry/hungry/A hungry|a polite/polite/A polite|"
              "a proud/proud/A proud|a sleepy/sleepy/A sleepy|a merry/merry/A merry|"
              "a noisy/noisy/A noisy|a gentle/gentle/A gentle|an honest/honest/An honest|"
              "a curious/curious/A curious|a tiny/tiny/A tiny|a round/round/A round|"
              "a dizzy/dizzy/A dizzy|a famous/famous/A famous|a grumpy/grumpy/A grumpy|"
              "a kind/kind/A kind|a lonely/lonely/A lonely|a nervous/nervous/A nervous|"
              "a rich/rich/A rich|a wise/wise/A wise"},
    {"size", "small|tall|quick|slow|fluffy|skinny|plump|silent"},
    {"color", "red|blue|green|yellow|purple|orange|pink|white|black|brown|grey|golden|silver|"
              "spotted|striped|violet"},
    {"home", "in a hollow oak|under a bridge|behind the mill|on a houseboat|in an empty teapot|"
             "beside a lake|at the edge of the forest|in a windy tower|above the bakery|"
             "between two hills|near the harbour|below the old castle|inside a giant pumpkin|"
             "on top of a haystack|among the reeds|next to a well"},
    {"toy", "kite/flew it over the hill|drum/marched through the village|"
            "flute/played songs for the moon|ball/kicked it up and down the lane|"
            "sled/raced down the hill|boat/sailed it across the pond|"
            "puzzle/sat on the floor and solved it|bell/rang it at every door|"
            "rope/skipped until they fell over|book/read it aloud by the fire|"
            "lantern/lit up the whole garden|marble/rolled it along the wall|"
            "puppet/gave a show for the sparrows|trumpet/woke the whole street|"
            "wagon/rode it around the well|crown/took turns at being king"},
    {"weather", "sunny|rainy|foggy|windy|snowy|stormy|chilly|misty|frosty|cloudy|bright|muddy"},
    {"day", "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday"},
    {"low", "bed|table|carpet|bench|stove|sofa|bath|cupboard|stairs|hay|ladder|doormat"},
    {"high", "fence|barn|curtain|statue|chimney|rosebush|gate|clock|windmill|apple tree|church|"
             "fountain|hedge|mailbox|piano|signpost"},
    {"box", "drawer|basket|suitcase|kettle|bucket|chest|pocket|nest|barrel|jar|wardrobe|oven|"
            "attic|cellar|sack|hat"},
    {"count", "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|forty|thirty|"
              "fifty|a hundred"},
    {"things", "buttons|feathers|acorns|spoons|stones|keys|candles|ribbons|shells|coins|needles|"
               "umbrellas|leaves|mittens|nails|whistles|pebbles|corks|teacups|chestnuts|socks|"
               "mirrors|bottles|ladybirds|snowflakes|horseshoes|pencils|stamps|thimbles|wheels|"
               "dandelions|icicles"},
    {"food", "plums|carrots|muffins|pancakes|apples|cherries|turnips|cookies|walnuts|peaches|"
             "radishes|dumplings|berries|onions|waffles|pies|melons|sausages|lemons|tomatoes|"
             "biscuits|figs|cakes|beans"},
    {"gift", "scarf|pillow|teapot|blanket|broom|guitar|mirror|telescope|cushion|fiddle|hammer|"
             "saddle|vase|wig|parasol|compass"},
    {"sad", "cold|tired|lonely|bored|sad|scared|thirsty|sleepy"},
    {"said", "said|whispered|shouted|sang|mumbled|laughed|called|sighed"},
    {"syllable", "bim|bam|bol|bub|dax|dil|dum|fum|fip|fez|gar|gob|gim|hok|hup|jub|jin|kal|kip|"
                 "kob|lom|lir|lup|mab|mig|mox|nix|nog|nup|pab|pel|pim|pud|qua|rop|rum|rig|sib|"
                 "sol|sud|tam|tiv|tup|ulo|uri|vex|vim|vol|wob|wub|wiz|xan|yub|yom|yap|zig|zok|"
                 "zum|oki|oba|eli|eno|ilo|ira"},
    {"wish", "it will rain lemonade/it rained lemonade until morning|"
             "the moon will dance/the moon danced over the roofs|"
             "your bed will fly/the bed flew twice around the church|"
             "all clocks will stop/no clock ticked for an hour|"
             "the river will sing/the river sang in a deep voice|"
             "stones will turn to bread/the garden path smelled of toast|"
             "nobody will sneeze/nobody sneezed all year|"
             "you will be invisible/even the mirror saw no one"},
    {"times", "once|twice|very slowly|backwards|with closed eyes|on one leg|in a deep voice|"
              "under the blanket"},
    {"party", "birthday|wedding|concert|picnic|tea party|dance|housewarming|puppet show"},
    {"hour", "noon|midnight|dawn|dusk|half past one|half past two|half past three|"
             "half past four|half past five|half past six|half past seven|half past eight"},
    {"walked", "walked|hopped|tiptoed|hurried|rolled|strolled|danced|stumbled"},
    {0, 0},
};
