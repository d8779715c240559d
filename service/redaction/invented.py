"""Names to invent persons from, by origin: common ones, written down for this project.

Of each origin as many women's names as men's. They stand for nobody: a pseudonym is put together
from them anew for each request.
"""

# ruff: noqa: E501 - a list a line

from __future__ import annotations

from dataclasses import dataclass, field

from service.redaction.identity import folded


@dataclass(frozen=True)
class Origin:
    """``female_surnames``: only where women's differ from men's."""

    name: str
    female: tuple[str, ...]
    male: tuple[str, ...]
    surnames: tuple[str, ...]
    female_surnames: tuple[str, ...] = ()
    folded_surnames: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        both = (*self.surnames, *self.female_surnames)
        object.__setattr__(self, "folded_surnames", frozenset(map(folded, both)))


_LISTS = """
English
Alice Beatrice Claire Dorothy Eleanor Fiona Georgia Hannah Imogen Jessica Katherine Lucy Megan Natalie
Adam Benjamin Christopher Daniel Edward Frederick Graham Henry Ian Julian Keith Leonard Martin Nigel
Ashworth Bennett Carter Dawson Ellison Fletcher Gibson Harding Ingram Jarvis Kendall Lambert Mercer Norris

Irish
Aoife Bridget Ciara Deirdre Eimear Fionnuala Grainne Maeve Niamh Orla Roisin Sinead Saoirse Una
Aidan Brendan Cormac Declan Eamon Fergal Kieran Liam Niall Oisin Padraig Ronan Seamus Tadhg
Brennan Cassidy Delaney Egan Flaherty Gallagher Hennessy Kavanagh Lynch Mulligan Nolan Quinlan Rafferty Tierney

German
Annika Birgit Christa Dagmar Elke Frieda Gudrun Heike Ingrid Jutta Karin Liesel Monika Sabine
Achim Bernd Dieter Eckhard Friedrich Gerhard Holger Joachim Klaus Lothar Manfred Rainer Stefan Uwe
Ackermann Bergmann Dietrich Ebert Fuchs Graf Hoffmann Jung Keller Lindner Möller Neumann Schuster Ziegler

French
Amélie Brigitte Camille Delphine Élodie Florence Geneviève Hélène Isabelle Juliette Laure Margaux Sylvie Véronique
Alain Bastien Cédric Didier Étienne Fabrice Gérard Henri Jérôme Laurent Mathieu Olivier Pascal Thierry
Aubert Bertrand Chevalier Dubois Fournier Garnier Lacroix Lemaire Mercier Morel Perrin Renaud Rousseau Vidal

Spanish
Alba Beatriz Carmen Dolores Elena Gabriela Inés Lucía Marisol Noelia Pilar Rocío Silvia Ximena
Alejandro Bruno Carlos Diego Eduardo Felipe Gonzalo Hugo Ignacio Joaquín Mateo Pablo Ramón Sergio
Álvarez Blanco Castillo Delgado Fuentes Gutiérrez Herrera Iglesias Jiménez Méndez Navarro Ortega Romero Vargas

Portuguese
Adriana Bruna Catarina Daniela Fernanda Graça Helena Joana Letícia Mariana Patrícia Renata Tatiana Vitória
Afonso Caio Duarte Estêvão Fábio Gustavo Heitor João Leandro Marcelo Nuno Otávio Rodrigo Tiago
Almeida Barbosa Cardoso Figueiredo Guimarães Lopes Machado Nogueira Oliveira Pereira Ribeiro Santos Teixeira Vieira

Italian
Alessia Bianca Chiara Donatella Elisa Federica Giulia Ilaria Ludovica Martina Ornella Paola Silvana Valentina
Alessandro Bruno Claudio Davide Enrico Fabio Giorgio Lorenzo Marco Nicola Paolo Riccardo Salvatore Umberto
Amato Bianchi Conti Esposito Ferrari Galli Lombardi Mancini Negri Pellegrini Rinaldi Santoro Testa Vitale

Dutch
Anouk Brechtje Carlijn Femke Hanneke Ilse Jolanda Lieke Marijke Nienke Petra Saskia Tineke Willemijn
Arjen Bart Cornelis Dirk Floris Gijs Hendrik Jeroen Koen Maarten Pieter Ruben Sander Wouter
Bakker Dekker Drost Hoekstra Jansen Kuiper Mulder Postma Smit Timmermans Veenstra Visser Willems Zijlstra

Scandinavian
Astrid Birgitta Dagny Ebba Frida Gunilla Hilde Ingeborg Kirsten Lisbet Maren Signe Solveig Tove
Anders Björn Carsten Einar Fredrik Gunnar Håkon Jesper Kjell Lars Magnus Olav Sven Torben
Andersen Bergström Dahl Eriksen Fjeld Gustafsson Hansen Iversen Jørgensen Karlsson Lindqvist Nygaard Olsen Sørensen

Icelandic
Arna Birna Elín Guðrún Hildur Katrín Lilja Margrét Ragnheiður Sigríður Steinunn Unnur Vigdís Þórunn
Ari Baldur Egill Guðmundur Haukur Jökull Kári Ólafur Ragnar Sigurður Snorri Tryggvi Vilhjálmur Þorsteinn
Arason Baldursson Egilsson Guðmundsson Hauksson Jökulsson Kárason Ólafsson Ragnarsson Sigurðsson Snorrason
Aradóttir Baldursdóttir Egilsdóttir Guðmundsdóttir Hauksdóttir Jökulsdóttir Káradóttir Ólafsdóttir Ragnarsdóttir

Polish
Agnieszka Beata Danuta Ewa Grażyna Halina Iwona Jadwiga Katarzyna Lucyna Małgorzata Renata Urszula Zofia
Andrzej Bogdan Czesław Dariusz Grzegorz Henryk Jerzy Krzysztof Leszek Mariusz Paweł Ryszard Tomasz Zbigniew
Adamski Borkowski Cieślak Dąbrowski Górski Jabłoński Kowalski Lewandowski Majewski Nowicki Rutkowski Wiśniewski
Adamska Borkowska Cieślak Dąbrowska Górska Jabłońska Kowalska Lewandowska Majewska Nowicka Rutkowska Wiśniewska

Czech
Alena Božena Dagmar Eliška Hana Ivana Jitka Kateřina Ludmila Markéta Olga Šárka Tereza Zdeňka
Aleš Bohumil Dalibor František Hynek Jaroslav Karel Lubomír Miloš Ondřej Radek Stanislav Vojtěch Zdeněk
Beneš Čermák Dvořák Fiala Havlíček Horák Kolář Marek Novotný Pokorný Růžička Svoboda Veselý Zeman
Benešová Čermáková Dvořáková Fialová Havlíčková Horáková Kolářová Marková Novotná Pokorná Růžičková Svobodová

Russian
Alla Darya Ekaterina Galina Irina Kseniya Larisa Marina Nadezhda Oksana Polina Svetlana Tatyana Yuliya
Aleksei Boris Dmitri Evgeny Fyodor Grigori Igor Konstantin Leonid Maksim Nikolai Pavel Sergei Viktor
Antonov Belyaev Denisov Fedorov Gusev Karpov Lebedev Morozov Nikitin Orlov Petrov Sokolov Tarasov Volkov
Antonova Belyaeva Denisova Fedorova Guseva Karpova Lebedeva Morozova Nikitina Orlova Petrova Sokolova Tarasova Volkova

South Slavic
Ana Biljana Dragana Emina Gordana Ivana Jelena Ljiljana Milica Nataša Sanja Tamara Vesna Željka
Aleksandar Boris Dragan Edin Goran Ivica Jovan Luka Marko Nemanja Slobodan Tomislav Vladimir Zoran
Babić Dimitrijević Filipović Horvat Ivanović Jovanović Knežević Lukić Marković Nikolić Pavlović Stanković Vuković

Hungarian
Anikó Boglárka Csilla Dóra Eszter Ildikó Judit Krisztina Magdolna Nóra Piroska Réka Szilvia Zsuzsanna
András Balázs Csaba Dénes Ferenc Gábor Gergely Imre László Miklós Péter Sándor Tamás Zoltán
Balogh Bodnár Farkas Fekete Gulyás Halász Juhász Kovács Lakatos Molnár Németh Szabó Takács Vörös

Romanian
Adina Bianca Camelia Daniela Elena Florentina Gabriela Ioana Loredana Mihaela Oana Raluca Simona Viorica
Adrian Bogdan Cristian Dumitru Emil Florin Gheorghe Ion Liviu Mihai Octavian Radu Sorin Vasile
Albu Bălan Ciobanu Dumitrescu Florea Ionescu Lupu Manole Neagu Popescu Rusu Stanciu Tudor Ungureanu

Greek
Aikaterini Anna Despina Eleni Foteini Ioanna Kalliopi Konstantina Maria Niki Panagiota Sofia Vasiliki Zoe
Alexandros Andreas Apostolos Dimitrios Evangelos Georgios Ioannis Konstantinos Michail Nikolaos Panagiotis Spyridon
Alexiou Antoniadis Christodoulou Dimitriou Georgiou Ioannidis Kazantzis Makris Nikolaidis Papadakis Stavrou Vlachos

Turkish
Aylin Banu Ceren Deniz Elif Feride Gülsen Hatice Nurhan Özlem Pınar Selin Şebnem Zeynep
Ahmet Burak Cem Emre Ferhat Hakan İlker Kemal Mehmet Orhan Serkan Tolga Volkan Yusuf
Aksoy Bozkurt Çelik Demir Erdoğan Güneş Kaplan Koç Özdemir Polat Şahin Tekin Yılmaz Yıldırım

Arabic
Aisha Amal Dalia Farida Ghada Huda Iman Khadija Layla Mariam Noura Rania Salma Zainab
Abdullah Adel Bilal Faisal Hamza Ibrahim Jamal Khalid Mahmoud Nasser Omar Rashid Tariq Youssef
Abbas Darwish Farouk Ghanem Haddad Hamdan Jaber Khalil Mansour Nassar Qasim Rahman Saleh Shaheen

Persian
Azadeh Banafsheh Fatemeh Golnaz Laleh Mahnaz Maryam Nasrin Parisa Roya Samira Shirin Yasaman Zahra
Arash Behrouz Dariush Farhad Hossein Iraj Kambiz Mehdi Nader Parviz Ramin Reza Saeed Shahram
Ahmadi Bagheri Ebrahimi Farahani Hosseini Jafari Karimi Mohammadi Najafi Rahimi Rostami Sadeghi Tehrani Zand

Hebrew
Adi Batya Chana Dafna Efrat Galit Hagit Inbal Keren Michal Noa Orit Shira Tamar
Amit Boaz Dov Eitan Gadi Itamar Lior Moshe Nadav Oren Roni Shlomo Uri Yair
Avraham Biton Cohen Dahan Eliyahu Friedman Golan Katz Levi Mizrahi Peretz Shapira Sharon Weiss

Indian
Aditi Bhavna Deepika Divya Gayatri Indira Kavita Lakshmi Meera Nandini Priya Rekha Sunita Vidya
Ajay Anil Deepak Ganesh Harish Karthik Manoj Naveen Pradeep Rajesh Sanjay Suresh Vijay Vikram
Agarwal Banerjee Chatterjee Desai Gupta Iyer Joshi Kapoor Kulkarni Mehta Nair Patel Reddy Sharma

Pakistani
Ayesha Bushra Fariha Hina Javeria Kiran Mehwish Nadia Rabia Saima Sana Tahira Uzma Zara
Ali Asif Bilal Faraz Hassan Imran Junaid Kashif Nadeem Salman Shahid Tariq Usman Waqar
Ahmed Akhtar Bhatti Butt Chaudhry Hashmi Iqbal Javed Malik Mirza Qureshi Raza Siddiqui Zaidi

Chinese
Chunhua Fang Guiying Hong Jing Lan Lihua Meiling Qing Shufen Xiaoyan Xiuying Yan Yulan
Bo Changming Dawei Feng Guoqiang Haoran Jianguo Jun Kai Peng Weimin Xiaoming Yong Zhiqiang
Cai Chen Deng Feng Guo Huang Jiang Liang Lin Luo Qian Sun Zhang Zhao

Vietnamese
Bich Diep Hanh Hoa Huong Lan Linh Mai Ngoc Nhung Phuong Thao Trang Tuyet
Anh Binh Cuong Dung Duc Hai Hieu Hung Khanh Long Minh Quang Tuan Viet
Bui Cao Dang Dinh Doan Duong Ho Hoang Huynh Nguyen Pham Phan Tran Truong

Japanese
Akiko Chiyo Emi Fumiko Haruka Izumi Kaori Mayumi Naoko Reiko Sachiko Tomoko Yoshiko Yuka
Akira Daisuke Eiji Fumio Hiroshi Isamu Kazuo Kenji Makoto Noboru Osamu Satoshi Takashi Yoshio
Aoki Endo Fujita Hasegawa Ishikawa Kimura Matsumoto Nakajima Ogawa Sakamoto Sato Tanaka Watanabe Yamada

Korean
Bo-ra Eun-ji Hye-jin Ji-woo Mi-kyung Min-seo Na-yeon Seo-yun Soo-min Sun-hee Yeon-joo Young-ae
Chang-ho Dong-hyun Hyun-woo Jae-sung Jin-young Joon-ho Kyung-soo Min-jun Sang-woo Seung-min Sung-ho Young-chul
Ahn Bae Cho Choi Han Hwang Jang Jeong Kang Kwon Moon Park Shin Yoon

Yoruba
Abimbola Adunni Bolanle Folake Funmilayo Iyabo Modupe Morenike Olufunke Omolara Ronke Temitope Titilayo Yetunde
Adebayo Ayodele Babatunde Damilola Femi Gbenga Kayode Kunle Olumide Oluwaseun Rotimi Segun Taiwo Tunde
Adeyemi Afolabi Akinola Awolowo Balogun Fashola Ogunleye Olatunji Oyelaran Popoola Sowande Tinubu

Igbo
Adaeze Amarachi Chiamaka Chidinma Ebele Ifeoma Kosisochukwu Ngozi Nkechi Nneka Obioma Uchenna Ugochi
Amaechi Chibueze Chidi Chukwuemeka Emeka Ikenna Kelechi Nnamdi Obinna Okechukwu Tobenna Uzoma
Achebe Anyanwu Chukwu Eze Ezeudu Ibekwe Mbanefo Nwankwo Nwosu Obi Okafor Okonkwo Onyekachi

Hausa
Aishatu Asabe Fatima Hadiza Hauwa Jummai Ladidi Maryam Rakiya Safiya Talatu Zuwaira
Abdullahi Aminu Bello Garba Ibrahim Idris Kabiru Lawal Musa Nuhu Sani Yakubu
Abubakar Bala Dangote Gambo Jibril Ladan Maigari Ringim Shehu Tanko Wada Yaro
"""


def _origin(block: str) -> Origin:
    name, *lists = block.split("\n")
    return Origin(name, *(tuple(words.split()) for words in lists))


ORIGINS = {origin.name: origin for origin in map(_origin, _LISTS.strip().split("\n\n"))}
