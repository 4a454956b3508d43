"""More ways to say the questions of the tasks, for training only. [a|b] is a choice, made anew each time."""

READ = [
    "[Please |]read [the|this|that] [text|line|word|words|sign|label|caption|writing][ for me| to me| aloud| out|].",
    "What [does|might] the [sign|label|line|text|picture|image|writing] [say|read]?",
    "[What|Which] [text|words|word|line] [do you see|can you see|can you read|is there|is shown|appears|is visible]?",
    "[Type|Write|Note] [out |down |]the [text|line|words] [in the picture|in the image|you see|that you see|here].",
    "What [is|stands|has been] [written|printed|typed|put] [in|on] [the|this] [image|sign|label|paper|strip]?",
    "[Spell out|Copy|Repeat|Give me|Extract] the [text|line|words|writing].", "[Text|Reading|Transcription], please.",
    "Tell me what [it says|is written|the text is|is printed|the line says|you can read].",
    "[Can|Could|Would] you [tell me what it says|read this line|read the line|tell me the text|transcribe it]?",
    "What can [you|one] read [here|there|in this picture|]?", "[OCR|Transcribe|Read it|Read|It says what]?"]
READ_PAGE = [
    "[Please |]read [the whole|the entire|this whole|this|the full] page[ to me| aloud|, line by line|].",
    "[Transcribe|Copy|Write down|Type out|Give me] [all|every one of|all of] the [lines|text][ on the page| of the page| in the picture|].",
    "What [does|do] [all the lines|the whole page|the page|the entire text|the document] say?",
    "[Read|Transcribe|Copy|Give me] [everything|all text|all that is written|the full text|every line][ here| there| in the picture| you see|].",
    "What is [the full text|all the text|the text of the page|written on all lines|printed on the page]?",
    "[Line by line, what|What] [does it say|is written here|is there to read] in [full|all]?"]
ASK_LINE = [
    "[Please |]read [me |]the {o} [line|row][ of the page| of the text| only|].", "[What|Which text] is [in|on] [line {n}|the {o} line|row {n}]?",
    "[Tell|Give|Show] me [the {o} line|line {n}|what line {n} says|what the {o} line says|the text of line {n}].",
    "What [can you read|do you read|stands|is there] [in|on] [line {n}|the {o} line]?", "[Line|Row] {n}[, please|?]",
    "[Transcribe|Copy|Write down|Quote] [line {n}|the {o} line].", "[The {o} line|Line {n}] [says|reads] what?",
    "[Only|Just] [line {n}|the {o} line][, please|]."]
LAST_LINE = ["[Please |]read the [last|bottom|final] line.", "What [is|does] the [bottom|final|last] line[ say|]?", "[Tell|Give] me the [last|final|bottom] line."]
HOW_MANY = ["[How many|Count the] lines[ are on the page| do you see| of text|]?", "What is the number of lines?"]
ASK_FIELD = [
    "[What|Which] {f} [is|was] [given|written|entered|noted|stated|filled in|shown|printed][ here| in the form| there|]?",
    "[Give|Show|Read] me the {f}[ in the form| please| from the form|].", "[Look up|Extract|Get|Find out|Copy] the {f}.", "{f}?",
    "[Can|Could] you [read|find|see|tell me|give me] the {f}?", "What [does it say|is written|is there|is entered|stands] [for|at|under|next to|beside] {f}?",
    "What [do you read|can you read] as the {f}?", "I need the {f}.", "[What|How] is the {f}[ here| please|]?"]
ASK_TOTAL = [
    "[What|How much] [is|was] the [total|sum|total sum|whole amount|final amount|amount due|full price][ here| on the receipt| of the receipt|]?",
    "[Tell|Give|Show] me the [sum|total|total amount|final sum|amount to pay].", "How much [do I|does one|must I|did they] [pay|owe][ in total| altogether| in all|]?",
    "[Read|Find|Look up|Extract] the [total|sum|final amount][ on the receipt|].", "What [do|does] [all of it|everything|it all] cost?",
    "[Total|The total|Sum|Total amount][, please|]?", "How much [is it|was it|does it come to|is due] [altogether|in all|overall|]?"]
ASK_PRICE = [
    "[What|How much] [is|are|was|were] the {i}?", "[Give|Show|Read] me the price of [the |]{i}.", "What [do|does|did] [the |]{i} cost?",
    "[Price|The price|Cost] of [the |]{i}?", "How much [do|does|did] [the |]{i} cost?", "[Find|Look up] [what the {i} cost|the price of {i}|the cost of {i}]."]
ASK_ALL = [
    "How many [shapes|objects|figures|things] [can you see|are visible|does it show|are shown|do you count|are drawn][ here| in the image|]?",
    "[Tell me|Say|Give me] [how many shapes there are|the number of shapes|how many objects you see|the count of shapes].",
    "[Count|Please count] [all|all the|every one of the|the] [shapes|objects|figures][ in the picture| you see| here|].",
    "[What is|Give] the [total |]number of [objects|shapes|figures]?", "How many [of them|shapes|objects] [in all|altogether|in total]?"]
ASK_KIND = [
    "How many {k} [are visible|does it show|are shown|do you count|are drawn|are in the image|does the image show|are here|can be seen]?",
    "[Tell me|Say|Give me] [how many {k} there are|the number of {k}|how many {k} you see|the count of {k}].",
    "[Count|Number] [all|all the|the] {k}[ in the picture| you see| here| for me|].", "[Number|Count] of {k}?", "How many {k}?"]
ASK_COLOUR = [
    "[What|Which] [colour|color] [is|does] the {s}[ have|]?", "[Tell|Give] me [the color of the {s}|what colour the {s} is|what color the {s} has].",
    "The {s} [is|has] [what|which] [colour|color]?", "[In what|In which|Of what] [colour|color] is the {s}[ drawn| painted|]?",
    "[Name|Say|Find] the [colour|color] of the {s}.", "How is the {s} [coloured|colored|painted]?"]
ASK_SHAPE = [
    "[What|Which] [figure|object|shape|thing] [is|has the colour|has the color] {c}?", "[Tell me|Name|Say] [the {c} shape|what the {c} shape is|which shape is {c}].",
    "The {c} [one|object|shape|figure] is [what|what shape|which shape]?", "[What|Which] [kind of |]shape [is the {c} one|has {c} colour]?"]
ASK_SIDE = [
    "[What|Which shape|Which object|Which figure] [is|stands|lies|can you see|is located|sits|is placed] {d} the {t}?",
    "[Tell|Show] me [what is|which shape is|the shape] {d} the {t}.", "[Name|Find|Say] [what is|the shape|the object] {d} the {t}.",
    "{d} the {t}, what [do you see|is there|shape is it]?", "[Look|Looking] {d} the {t}[: what is there|, what do you see]?", "What [lies|is found|appears] {d} the {t}?"]
ASK_LIST = [
    "[Describe|List|Name] [the shapes|all shapes|what you see|the image|this picture|all objects][ in the picture| from left to right|].",
    "[What|Which] [shapes|objects|things] [are there|do you see|are in the picture|does the picture show|are shown]?", "[Tell me|Say] what [you see|is there|the picture shows|is in the image]."]
ASK_WHICH = [
    "[Which|What] [one|image|picture|of them] [shows|has|contains|holds|displays] {x}?", "[In|On] [which|what] [one|image|picture] [is|can you see|do you find|appears|is there] {x}?",
    "[Where|Where exactly] [is|can you see|can I see|do you find|is there] {x}?", "[Find|Point out|Name|Tell me] the [picture|image] [with|that shows|that has] {x}.",
    "{x} is in which [picture|image]?", "[Tell me|Say] which [picture|image] [shows|has] {x}."]
ASK_WORD = [
    "[Which|What] [one|image|picture] [reads|says|shows|has|contains] [the word |the text |]{x}?", "[In|On] [which|what] [image|picture] [is|can you read|do you see|stands|appears] {x}?",
    "[Where|In which one] [is|do you read|can I read|does it say|stands] {x}?", "[Find|Name|Tell me] the [picture|image] [that says|with the word|that reads|with] {x}.", "{x} is written in which [picture|image]?"]
ASK_DIFF = [
    "[What|Which thing] [changed|is not the same|differs|is changed|has been changed|is new or gone]?", "[Name|Find|Spot|Tell me|Describe] the [difference|change][ between the pictures| between them|].",
    "[What|How] [is|are] [the difference|different|the images different|the pictures different|the change][ between them| between picture 1 and picture 2| here|]?", "[Compare|Please compare] the [two |][pictures|images].",
    "How [does|do] [the second differ from the first|the images differ|they differ|picture 2 differ from picture 1]?"]
ASK_MOST = ["[Which|What] [one|image|picture] has the [most|greatest number of|largest number of] [shapes|objects]?", "[In|On] which [one|picture|image] are [the |there |][most|more] [shapes|objects]?",
            "[Where|In which one] do you [see|count|find] the most [shapes|objects]?"]
ASK_SUM = ["[Sum|Add|Sum up|Add up|Total] [the numbers|all numbers|them|all the numbers|everything][ in the picture| for me|].", "What [is|do you get as|makes] the [sum|total][ of all numbers| of these numbers| of them|]?",
           "[What|How much] [do|does] [they|the numbers|all numbers|it] [make|give|add up to|sum to|come to][ together| in total|]?", "[Compute|Calculate|Find|Give me] the [sum|total][ of the numbers|]."]
ASK_PLUS = ["[Calculate|Compute|Work out|Solve|Evaluate|Add up] {s}[ for me| please|].", "[What|How much] [is|makes|gives|do you get for|are] {s}?", "{s} [is what|makes what|=|is how much]?", "[Tell|Give] me [the result of |what |]{s}[ is|]."]
ASK_MOVE = [
    "[Which way|In which direction|In what direction|Where|Where to] [is|was] [the {t}|it] [moving|going|heading|travelling|sliding]?",
    "[Which way|In what direction|To which side|Where|Where to] [does|did] [the {t}|it] [move|go|head|travel|slide]?",
    "[Tell me|Say|Describe] [which way|where|how|in which direction] the {t} [moves|goes|is moving|is going|travels].", "[What is|Name|Give] the direction of [the {t}|its movement|the movement].",
    "[How|What way] [is|does] the {t} [move|moving|going|go]?", "The {t} [moves|goes|is moving|is going] [where|which way|in which direction]?", "[Direction|Movement] of the {t}?"]
ASK_AFTER = [
    "[What|Which shape|Which object] [comes|appears|is shown|can be seen|is there|shows up|do you see] [right |directly |just |]after the {t}?", "[What|Which shape|Which object] [follows|replaces|comes next after] the {t}?",
    "After the {t}[, what comes| comes what|, what do you see|, which shape follows]?", "[Tell me|Say|Name] what [comes after|follows|is shown after] the {t}.", "[Once|When] the {t} is gone, what [comes|appears|do you see]?",
    "What [is|comes] next after the {t}?"]
ASK_FIRST = ["[What|Which shape|Which object] [is|appears|comes|can you see|is seen] [first|at first|at the start|at the beginning|in the beginning]?", "[Name|Tell me] the first [shape|object|thing].", "[With what|How] does [it|the clip|the video] [start|begin]?"]
ASK_LAST = ["[What|Which shape|Which object] [is|appears|comes|can you see|is seen] [last|at last|at the end|in the end]?", "[Name|Tell me] the last [shape|object|thing].", "[With what|How] does [it|the clip|the video] end?"]
ASK_ORDER = ["[In what|In which] order do [they|the shapes|the objects|things] [come|appear|show up|follow]?", "[Describe|Summarise|Tell me] [the clip|what happens|the order of the shapes|the video|the film|what you see].",
             "What [happens|is shown|do you see|appears|can be seen] in the [video|clip|film]?", "[List|Name] the shapes in [order|the order in which they appear]."]
ASK_BLINK = [
    "How [often|many times] [does|did] [the {t}|it] [blink|flash|light up|show up|appear|turn on]?", "How [often|many times] [do|can|did] you [see|notice] [the {t}|it] [flash|appear|light up|show up|blink]?",
    "[Count|Tell me|Give me|Say] [how often the {t} blinks|how many times it blinks|the blinks|the flashes|the number of blinks|how many times the {t} flashes].", "[How many|What number of] [blinks|flashes] [are there|do you count|do you see|does the {t} make]?",
    "[Number|Count] of [blinks|flashes]?", "The {t} blinks how [often|many times]?"]
ASK_WORDS = [
    "[Which|What] words [are there|come up|show up|do you read|are seen|can you read|are displayed], and [when|at what time|at which second]?", "[List|Give me|Name|Read|Tell me] [the|all|all the] words [and|with] [their times|the times|when they appear|the seconds at which they appear|the time of each].",
    "[Read|List|Name] each word [and say when it appears|with its time|and its time].", "When [do|does] which [word|words] [appear|come up|show up]?", "[Which|What] words [appear|are shown] [when|at which second|at what times]?",
    "[Words|Text] and times[, please|]?"]
ASK_WHEN = [
    "[When|At what second|At which second|At what time] [does|did|can you see|do you see|is] {x} [appear|come up|show up|come|first appear|shown|displayed]?", "[Tell me|Say|Give me] [when|the second at which|the time at which|at what second] {x} [appears|is shown|comes up|shows up].",
    "{x} [appears|is shown|comes up|comes] [when|at what second|at which second|at what time]?", "[From when on|Since when|When exactly] [is|do you see|can one see] {x}[ there| visible|]?", "[When|At which time] do you [read|notice|see|first see] {x}?"]
ASK_VIDEO = ["[Which|What] words [are there|come up|show up|do you read|can you read|are displayed][ in the video| in the clip|]?", "[List|Name|Read|Give me] [all |the |all the ]words[ in the video| in the clip|].", "What [text|words] [appears|appear|is shown|can you read] in the [video|clip]?",
             "What does [it|the clip|the film] say?"]
ASK_TOP = [
    "[Which|What] [{w}|one|of them|label|entry] [is|was] the [largest|biggest|highest|greatest|tallest]?", "[Which|What] [{w}|one|of them|entry] [has|shows|reaches] the [highest|largest|biggest|greatest|top] value?",
    "[Name|Find|Tell me|Give me|Show me] the [largest|biggest|highest|tallest] [{w}|one|value's label].", "[Where|For which {w}|For which one] is the [maximum|highest value|largest value|peak|top]?", "[What|Which] [is|comes out] [highest|largest|biggest|on top|the most]?",
    "[The largest|The highest|The biggest] {w} is [which|which one|called what]?", "[Which|What] [has|shows] the most?", "[Maximum|Largest|Highest]?"]
ASK_LOW = [
    "[Which|What] [{w}|one|of them|entry] [is|was] the [smallest|lowest|least|shortest]?", "[Which|What] [{w}|one|of them|entry] [has|shows] the [lowest|smallest|least] value?", "[Name|Find|Tell me|Give me] the [smallest|lowest|shortest] [{w}|one].",
    "[Where|For which {w}] is the [minimum|lowest value|smallest value]?"]
ASK_VALUE = [
    "[What|Which] value [does|did] {x} [have|show|reach]?", "[What|How much|How high|How large|How big|How many] [is|was] [the value of |the value for |]{x}?", "[Give|Show|Read] me the [value|number|amount] [of|for|at] {x}.",
    "[What|Which] [number|value|amount] [is|stands|do you read|is shown] [for|at|by|with] {x}?", "[Read|Find|Look up|Estimate] [the value of|the value for|how much is] {x}.", "[Value|Number|Amount] [of|for] {x}?", "{x}[:| is] how [much|high|many]?", "{x} has [what|which] value?"]
ASK_CHART = ["[What|Which] [kind|type|sort] of [chart|diagram|graph] is [this|it|that|shown]?", "[Name|Tell me] the [type|kind] of chart."]
ASK_PHOTO = ["[What|Who|Which animal|Which place] [is|can you see|do you see] [this|here|in this photo|in the photograph|there]?", "[Describe|Explain] [this photo|the photograph|the scene|what you see].", "[What|Which] [animal|person|place|object] is [in the photo|this|shown]?"]

TOOLS = {
    "get_weather": ["[What|How] [is|will be] the weather [like |]in {city}[ now| tomorrow| right now|]?", "[Is|Will] it [rain|snow|be sunny|be cold|be warm|sunny|cold|raining|snowing] in {city}[ today| now| tomorrow|]?", "[Show|Give|Tell] me the [weather|forecast] [for|in] {city}[, please|].", "[Weather|Forecast] [in|for] {city}[, please|]?", "Do I need [an umbrella|a coat] in {city}?"],
    "get_time": ["[What|Tell me what] time [it is|is it] [now |]in {city}[ now| right now| please|].", "[How late|What hour] is it in {city}[ now| right now|]?", "[Show|Give|Tell] me the [current time|clock|local time|time] in {city}[ please|].", "[Time|Clock|Local time] in {city}[, please|]?", "[What|Which] is the [local |current |exact |]time in {city}?"],
    "set_timer": ["[Set|Start|Make|Begin|Run] [me |]a [timer|countdown] [of|for|over|with] {minutes} [minutes|minutes please|minutes from now].", "[Remind|Alert|Call] me in {minutes} minutes.", "[Time|Count down] {minutes} minutes[ for me| please|].", "[Can|Could] you [start|set] a {minutes} minute timer?", "[I need|Give me] a timer [of|for] {minutes} minutes."],
    "set_alarm": ["[Set|Make|Put|Create] [me |]an alarm [for|at|to] {time}[ please| tomorrow|].", "[Wake|Ring|Get] me [up |][at|by] {time}[ please| tomorrow|].", "I [want|have|need] to [wake|get|be] up at {time}.", "[Alarm|An alarm] [at|for] {time}[, please|].", "[Can|Could] you [wake me at|set an alarm for] {time}?"],
    "play_music": ["[Play|Start|Put on|Begin] [the song |the track |the tune |]{title}[ please| for me|].", "[Let me|I would like to|I want to] hear [the song |]{title}.", "[Could|Would|Will] you play [the song |]{title}?", "[I feel like|How about] [listening to |some |]{title}."],
    "send_message": ["[Send|Write|Text] [{to} a message|{to} a note|{to} the message|a message to {to}]: {text}", "[Let {to} know|Inform {to}|Text {to}|Tell {to} that|Say to {to}]: {text}", "[Please |]message {to}: {text}", "[Can|Could] you [write|send] {to}: {text}"],
    "call_person": ["[Call|Ring|Phone|Dial] [up |]{name}[ please| for me| now|].", "[I need|I have|I would like] to [call|speak with|phone|ring|talk to] {name}[ on the phone|].", "[Could|Would|Will] you [call|phone|ring] {name}?", "[Get|Put] {name} on the phone.", "[Make|Start|Place] a [phone |]call to {name}."],
    "search_web": ["[Search|Look|Google] [for |the web for |the internet for |online for ]{query}[ please|].", "[Find|Get|Show] [me |][pages|something|information|sites|results] [on|about|for] {query}.", "[Can|Could] you [look up|search for|find] {query}[ online|]?", "[What can you find on|Web search for|Look for] {query}?"],
    "translate": ["[Translate|Put|Turn] {text} [into|to] {language}[ please|].", "[How|What] [do I say|does one say|would you say|is the word for] {text} in {language}?", "[Say|Give me|Tell me|Write] {text} in {language}.", "[Could|Would|Can] you translate {text} [into|to] {language}?", "[I need|I want] {text} in {language}.", "{text} in {language}[, please|]?"],
    "add": ["[Add|Sum|Add up|Add together] {a} [and|with|plus|to] {b}[ please| for me|].", "[What|How much] [is|are|makes] {a} [+|plus|and] {b}?", "[Compute|Calculate] {a} [+|plus] {b}.", "[Tell|Give] me [the sum of {a} and {b}|{a} plus {b}].", "The sum of {a} and {b}[, please|]?", "[Can|Could] you add {a} and {b}?"],
    "multiply": ["[Multiply|Take|Compute|Calculate] {a} [times|by|*] {b}[ please| for me|].", "[What|How much] [is|are|makes] {a} [x|times|*|multiplied by] {b}?", "[Tell|Give] me [the product of {a} and {b}|{a} times {b}].", "The product of {a} and {b}[, please|]?", "[Can|Could] you multiply {a} [by|and|with] {b}?"],
    "convert_money": ["[Convert|Change|Exchange|Turn|Swap] {amount} {from} [into|to|for] {to}[ please| for me|].", "[How many|How much] {to} [is|are|do I get for|are there in|make] {amount} {from}?", "[What|How much] [is|are] {amount} {from} [worth |]in {to}?", "{amount} {from} [in|to|into] {to}[, please|]?", "[Can|Could] you [convert|change] {amount} {from} [to|into] {to}?"],
    "book_table": ["[Book|Reserve|Get|Order] [me |us |]a table [for|of] {people} [people |persons |guests |]at {time}[ please| tonight|].", "[I need|We need|I want|We would like] a table for {people} [people |]at {time}.", "We are {people}[ people|] and want to eat at {time}.", "[A table|Table] at {time} for {people}[ people|][, please|].", "[Can|Could] you [book|reserve] a table for {people} at {time}?"],
    "turn_on": ["[Turn|Switch|Put] on the {device}[ please| now| for me|].", "[Turn|Switch|Put] the {device} on[ please| now|].", "[Start|Power up|Activate|I need] the {device}.", "[Could|Would|Will] you [turn|switch] [on the {device}|the {device} on]?", "The {device} [should|must] be on."],
    "add_event": ["[Add|Put|Enter|Write] {title} [in|into|to] [the|my] calendar [for|on|at] {date}[ please|].", "[Note|Remember|Schedule|Plan] {title} [for|on] {date}[ please|].", "[On {date}|For {date}] [add|put|note|plan] {title}[ in the calendar|].", "[Can|Could] you [add|put] {title} on {date}[ into my calendar|]?", "[There is|I have] {title} on {date}[, please note it|, put it in the calendar|]."],
    "get_stock": ["[What|How much] [is|costs|does] [a share of |the share |the stock |]{symbol}[ cost| worth|]?", "[Give|Show|Tell] me the [price|stock price|share price|quote] [of|for] {symbol}.", "[Price|Quote|Share price] [of|for] {symbol}[, please|]?", "How [high|much|good] is {symbol}[ today| now| trading|]?", "[Look up|Check|Get] the [share|stock|price of] {symbol}."],
}

# in the order of tasks_talk.TALK
TALK = [
    ["[Hello|Hi|Hey|Greetings|Good day|Hello there|Hi Videre|Hello Videre|Good afternoon|Hey there][!|.|,|]"],
    ["[Who|What] [are|might] you[ exactly| then| really|]?", "[Tell me|Say|Explain] [who|what] you are[ exactly|].", "What [is|are] [your name|you called|this model|you exactly]?", "[Which|What kind of] [model|program|assistant|AI] [are you|is this|am I talking to]?", "[Can|Could] you [introduce|describe] yourself?", "Are you [a human|an AI|a computer|a program|a person]?"],
    ["[What|Which things] [can|could] you [do|read|see|help with|answer|show me]?", "[Tell me|List|Explain|Show me] what you [can do|know|can|are able to do|could do].", "[How|With what|In what] can you [help|assist|be of use][ me| us|]?", "What [are|is] your [skills|abilities|use|task|job]?", "[I need help|Help me|What do you do|What are you for][.|?|]"],
    ["Who [trained|made|created|built|wrote|programmed|designed] you?", "[How|By whom] were you [made|trained|built|created]?", "[Where|From where] [are you|were you made|do you come]?", "[What|Who] [is your maker|made this model|is behind you]?"],
    ["How [big|large|small|heavy] are you?", "[How many|What number of] parameters [do you have|are you|has this model]?", "What [is|are] your size?", "Are you [big|small|tiny|a big model|a small model|large]?", "How many [weights|megabytes|parameters] [are|have] you?"],
    ["[Can|Could] you [describe|recognise|look at|understand|read|see] [a photo|photos|photographs|my photo|pictures of people|animals|faces|people]?", "Do you [know|recognise|understand|see] [photos|people|faces|animals|cats|dogs|cars|landscapes]?", "[I have a photo, can|Can|Will] you [tell me who is in it|tell me what is in a photo|describe it]?"],
    ["What [can you not do|can you not see|do you not know|are your limits|is too hard for you|are you bad at]?", "[Tell me|List|Name] [your limits|what you cannot do|your weaknesses|where you fail|what you do not know].", "[Where|When] [do you fail|are you wrong|do you make mistakes]?", "[Do|Can] you make mistakes?"],
    ["[Thank you|Thanks|Many thanks|Thank you so much|Thank you very much|Great, thanks|Perfect, thank you|Nice, thanks|OK, thanks][!|.|]"],
    ["[Bye|Goodbye|See you|Good night|Bye bye|Farewell|Until later|See you soon|I have to go][!|.|]"],
    ["[Hello, how|Hi, how|How|And how] [are you|are you doing|do you feel|is it going|are things][ today| now|]?", "[Are you well|All good|How do you do|What's up][?|]"],
    ["[What|Who|Where|When] [is|was|were] [the capital of Spain|the king|the largest country|the first man on the moon|Einstein|the war|the tallest mountain|in the news]?", "[Tell me|Write|Sing|Give me] [a joke|a story|a poem|a song|a recipe|some news|about history].", "[How|Why] [do I|does one|can I] [bake bread|learn French|make money|lose weight|fix a car|sleep better]?",
     "Who [won|wrote|invented|painted|discovered] [the election|the match|the phone|Mona Lisa|America|it]?", "[What|How] [is|about] [love|life|the stock market|quantum physics|football]?"],
    ["[What|Which things] [do you see|is in the image|does the image show|is on it|does it say|is written there]?", "[Read|Describe|Look at|Explain] [it|the text|the image|the picture|this picture|the line|the page].", "[How many|Count the] [circles|shapes|objects|lines|squares][ are there| do you see|]?", "[What|Which] [colour is the star|is the largest|is the price of tea|is left of the circle|picture shows a star|way does it move]?"],
    ["[Can|Could|Do] you [watch|see|understand|follow|look at] [a video|videos|a clip|clips|films|movies|a film]?", "[Are you able|Is it possible] to [watch|show you] [videos|a clip|a video]?"],
    ["[Can|Could|Do] you [read|understand|know] [handwriting|handwritten text|my handwriting|letters by hand|cursive]?", "[Are you able|Is it possible] to read [handwritten notes|notes by hand|a handwritten letter]?"],
    ["[Can|Do|Could] you [think|reason|think aloud|think step by step]?", "How [do I turn thinking on|can I make you think|does thinking work|do I switch on thinking|can you reason]?", "[What is|Explain] [thinking mode|the thinking mode|thinking]?"],
    ["[Do|Can] you [speak|understand|know|write] [German|French|Spanish|Italian|Chinese|other languages|English|Polish]?", "[Which|What|How many] languages [do you know|can you speak|do you understand|are there]?"],
]
